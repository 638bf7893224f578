"""Neuron coresets that hold for all inputs of a ball.

Source: Mussay, Osadchy, Braverman, Zhou and Feldman, Data-independent neural pruning via coresets,
ICLR 2020, and the code released with it. The theorem's form and its constants are recalled, not
verified; the forms of Hoeffding and Bernstein are derived here, as is what is said of convolutions
and residual additions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from pruning.bounds.forms import Paper, PrunedLayer
from pruning.bounds.sums import sum_by_channel
from pruning.networks.layers import as_matrices

Activation = Callable[[Tensor], Tensor]
LARGEST: Mapping[str, Activation] = {
    "relu": lambda z: z,
    "identity": lambda z: z,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "binary_step": torch.ones_like,
    "tanh": torch.tanh,
    "leaky_relu": lambda z: z,
    "gelu": F.gelu,
    "silu": F.silu,
    "gaussian": torch.ones_like,
    "sin": torch.ones_like,
}
"""By activation, sup |phi| over |z| <= radius, as a function of the radius."""


def bound_importance(incoming: Tensor, outgoing: Tensor, activation: str, beta: float) -> Tensor:
    """s_j = max_i |w_ij| sup |phi(z)| over |z| <= beta ||p_j||, float64 (n,).

    `incoming` (n, d + 1) holds the points p_j, biases appended as a last column; `outgoing` is (k,
    n); `beta` bounds the norm of the inputs, with the one for the bias.

    >>> bound_importance(
    ...     torch.tensor([[3.0, 4.0], [0.0, 1.0]]),
    ...     torch.tensor([[1.0, -2.0], [0.5, 0.25]]),
    ...     "relu",
    ...     1.0,
    ... )
    tensor([5., 2.], dtype=torch.float64)
    """
    norms = beta * incoming.double().norm(dim=1)
    return outgoing.double().abs().amax(0) * LARGEST[activation](norms)


def paper_form(
    total: Tensor | float, draws: Tensor | float, delta: float, dimension: int, c: float = 1.0
) -> Tensor:
    """sqrt(c t (d' ln max(t, e) + ln(1 / delta)) / m), for all inputs of the ball at once; not
    certified.

    c is not given in the paper, and the form is loose in t: it fails when the outgoing weights are
    scaled up.
    """
    t = torch.as_tensor(total, dtype=torch.float64)
    return (c * t * (dimension * t.clamp_min(math.e).log() + math.log(1 / delta)) / draws).sqrt()


def hoeffding(total: Tensor | float, draws: Tensor | float, log: float) -> Tensor:
    """t sqrt(2 log / m), each draw within [-t, t]; log = ln(2 k n / delta) for k outputs of n
    inputs together.

    >>> round(float(hoeffding(7.0, 10, math.log(2 * 2 / 0.05))), 3)
    6.553
    """
    t = torch.as_tensor(total, dtype=torch.float64)
    return t * (2 * log / torch.as_tensor(draws, dtype=torch.float64)).sqrt()


def bernstein(
    total: Tensor | float, variation: Tensor | float, draws: Tensor | float, log: float
) -> Tensor:
    """sqrt(2 t F log / m) + 4 t log / (3 m), F = sum_j |w_ij| |phi(p_j x)|, log as for Hoeffding's.

    F is at most t; where it is much smaller, this is tighter than Hoeffding's unless m is small.
    """
    t, f = (
        torch.as_tensor(total, dtype=torch.float64),
        torch.as_tensor(variation, dtype=torch.float64),
    )
    m = torch.as_tensor(draws, dtype=torch.float64)
    return (2 * t * f * log / m).sqrt() + 4 * t * log / (3 * m)


def bound_errors(
    layer: PrunedLayer, norms: Tensor, *, radius: Tensor, activation: str, dimension: int, c: float
) -> Paper:
    """`paper_form` with t over the ball of all inputs at hand, as layers are bounded; without
    draws, what is pruned of t.

    An activation that is larger at an input at hand than `activation` lets it be, as one of another
    kind, counts as it is.

    `norms` (in,) are those of the points that write what the layer reads, biases included, `radius`
    (N,) bounds what those see, with the 1 for the bias. t = max_j max_i |w_ij| phi(beta ||p_j||) /
    p_j, which is the sum of the importances where neurons are drawn by them. `ball` and `ball
    bernstein` take it for the range of a draw, and hold for every input of that norm. Nothing is
    said of single weights.
    """
    if layer.by_weight:
        return Paper(None)
    largest, weight = LARGEST[activation], as_matrices(layer.layer, layer.weight).abs()
    outgoing = weight.reshape(*weight.shape[:2], -1, layer.kernel).sum(3)  # (G, O, in / G)
    reads = _sizes(layer)

    def total(values: Tensor, by_output: bool) -> Tensor:
        """t of activations (N, in): (S, N, 1 or out, 1)."""
        if layer.first is None and not by_output:
            each = (outgoing.amax(1).flatten() * values)[:, None]
        else:
            each = outgoing[None] * values.reshape(
                len(values), len(weight), 1, -1
            )  # (N, G, O, in / G)
            if layer.first is not None:
                each = sum_by_channel(each[..., None], layer.first[:, None, :, None])[..., 0]
            each = each.flatten(1, 2) if by_output else each.amax(2).flatten(1)[:, None]
        found = []
        for p in layer.open:
            groups = (
                p.reshape(len(weight), 1, -1).expand(-1, weight.shape[1], -1).flatten(0, 1)
                if by_output
                else p[None]
            )
            found.append(
                torch.where(groups > 0, each / torch.where(groups > 0, groups, 1.0), 0.0).amax(2)
            )
        return torch.stack(found)[..., None]

    most = torch.maximum(largest(radius.amax() * norms), reads.amax(0))[None]
    ball = total(most, by_output=False)
    draws = layer.draws.clamp_min(0).double()
    lost = layer.lost * ball

    def error(found: Tensor) -> Tensor:
        whole = torch.where(layer.draws == 0, ball, found)
        return (
            torch.where(layer.draws < 0, lost, whole).expand_as(layer.sums.value).sum(0)
            + layer.missing.abs()
        )

    def of(t: Tensor, counts: Tensor = draws) -> Tensor:
        return error(paper_form(t, counts.clamp_min(1), layer.delta, dimension, c))

    forms = {"ball": error(hoeffding(ball, draws.clamp_min(1), layer.log))}
    if not layer.sampled:
        return Paper(None, forms=forms)
    forms["ball bernstein"] = error(bernstein(ball, layer.sums.size, draws.clamp_min(1), layer.log))
    swaps = {
        "the norm of each input": of(total(largest(radius[:, None] * norms), by_output=False)),
        "activations as they are": of(total(reads, by_output=False)),
        "outgoing weights of each output": of(total(most, by_output=True)),
        "no union over the ball": error(paper_form(ball, draws.clamp_min(1), layer.delta, 0, c)),
        "distinct neurons for draws": of(ball, layer.distinct.clamp_min(1)),
    }
    return Paper(of(ball), swaps, forms=forms)


def _sizes(layer: PrunedLayer) -> Tensor:
    """The largest size of each input channel over positions, (N, in)."""
    return layer.patches.abs().amax(3).reshape(len(layer.patches), -1, layer.kernel).amax(2)
