"""Neuron coresets that hold for all inputs of a ball.

Source: Mussay, Osadchy, Braverman, Zhou and Feldman, Data-independent neural pruning via coresets, ICLR 2020, and the code
released with it. The theorem's form and its constants are recalled, not verified; the forms of Hoeffding and Bernstein are
derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor]
LARGEST: Mapping[str, Activation] = {
    "relu": lambda z: z, "identity": lambda z: z, "sigmoid": torch.sigmoid, "softplus": F.softplus,
    "binary_step": torch.ones_like, "tanh": torch.tanh, "leaky_relu": lambda z: z, "gelu": F.gelu, "silu": F.silu,
    "gaussian": torch.ones_like, "sin": torch.ones_like,
}
"""By activation, sup |phi| over |z| <= radius, as a function of the radius."""


def importance(incoming: Tensor, outgoing: Tensor, activation: str, beta: float) -> Tensor:
    """s_j = max_i |w_ij| sup |phi(z)| over |z| <= beta ||p_j||, float64 (n,).

    `incoming` (n, d + 1) holds the points p_j, biases appended as a last column; `outgoing` is (k, n); `beta` bounds the
    norm of the inputs, with the one for the bias.

    >>> importance(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([[1.0, -2.0], [0.5, 0.25]]), "relu", 1.0)
    tensor([5., 2.], dtype=torch.float64)
    """
    norms = beta * incoming.double().norm(dim=1)
    return outgoing.double().abs().amax(0) * LARGEST[activation](norms)


def reweighted(outgoing: Tensor, probabilities: Tensor, counts: Tensor) -> Tensor:
    """w_ij N_j / (m p_j), m = sum_j N_j; zero where nothing was drawn. Unbiased for a fixed m where p > 0.

    >>> outgoing = torch.tensor([[1.0, -2.0], [0.5, 0.25]])
    >>> reweighted(outgoing, torch.tensor([5 / 7, 2 / 7]), torch.tensor([7, 3]))
    tensor([[ 0.9800, -2.1000],
            [ 0.4900,  0.2625]])
    """
    factor = torch.where(counts > 0, counts / (counts.sum().clamp_min(1) * probabilities.double()), 0.0)
    return outgoing * factor.to(outgoing.dtype)


def paper(total: float, draws: int, delta: float, dimension: int, c: float = 1.0) -> float:
    """sqrt(c t (d' ln max(t, e) + ln(1 / delta)) / m), for all inputs of the ball at once; not certified.

    c is not given in the paper, and the form is loose in t: it fails when the outgoing weights are scaled up.
    """
    return math.sqrt(c * total * (dimension * math.log(max(total, math.e)) + math.log(1 / delta)) / draws)


def hoeffding(total: float, draws: int, delta: float, outputs: int, inputs: int = 1) -> float:
    """t sqrt(2 ln(2 k n / delta) / m): for k outputs of n inputs together, each draw within [-t, t].

    >>> round(hoeffding(7.0, 10, 0.05, outputs=2), 3)
    6.553
    """
    return total * math.sqrt(2 * math.log(2 * outputs * inputs / delta) / draws)


def bernstein(total: float, variation: float, draws: int, delta: float, outputs: int, inputs: int = 1) -> float:
    """sqrt(2 t F L / m) + 4 t L / (3 m), L = ln(2 k n / delta), F = max_i sum_j |w_ij| |phi(p_j x)|.

    F is at most t; where it is much smaller, this is tighter than Hoeffding's unless m is small.
    """
    log = math.log(2 * outputs * inputs / delta)
    return math.sqrt(2 * total * variation * log / draws) + 4 * total * log / (3 * draws)


def two_sided(positive: tuple[float, int], negative: tuple[float, int], delta: float, outputs: int,
              inputs: int = 1) -> float:
    """sum over the sides of t sqrt(ln(4 k n / delta) / (2 m)): one coreset for each sign, (t, m) of either.

    A side without weights has t = 0 and costs nothing.
    """
    log = math.log(4 * outputs * inputs / delta)
    return sum(total * math.sqrt(log / (2 * draws)) for total, draws in (positive, negative) if total > 0)
