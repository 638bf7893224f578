"""Neuron coresets that hold for all inputs of a ball.

Source: Mussay, Osadchy, Braverman, Zhou and Feldman, Data-independent neural pruning via coresets,
ICLR 2020, and the code released with it. The theorem's form and its constants are recalled, not
verified; the forms of Hoeffding and Bernstein, and those for convolutions and residual additions,
are derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from pruning.bounds.forms import Paper, PrunedLayer
from pruning.bounds.sums import divide_or_zero, sum_by_channel
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
"""The function of the radius that is sup |phi(z)| over |z| <= radius, by activation."""


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

    c is not given in the paper, and the form grows too slowly in t: it fails when the outgoing
    weights are scaled up.
    """
    t = torch.as_tensor(total, dtype=torch.float64)
    log_union = dimension * t.clamp_min(math.e).log() + math.log(1 / delta)
    return (c * t * log_union / draws).sqrt()


def hoeffding(total: Tensor | float, draws: Tensor | float, log: float) -> Tensor:
    """t sqrt(2 log / m), each draw within [-t, t].

    log = ln(2 k n / delta) for k outputs of n inputs together.

    >>> round(float(hoeffding(7.0, 10, math.log(2 * 2 / 0.05))), 3)
    6.553
    """
    t = torch.as_tensor(total, dtype=torch.float64)
    return t * (2 * log / torch.as_tensor(draws, dtype=torch.float64)).sqrt()


def bernstein(
    total: Tensor | float, variation: Tensor | float, draws: Tensor | float, log: float
) -> Tensor:
    """sqrt(2 t F log / m) + 4 t log / (3 m), F = sum_j |w_ij| |phi(p_j x)|, log as for Hoeffding's.

    F (`variation`) is at most t; where it is much smaller, this is tighter than Hoeffding's unless
    m is small.
    """
    t = torch.as_tensor(total, dtype=torch.float64)
    variation = torch.as_tensor(variation, dtype=torch.float64)
    m = torch.as_tensor(draws, dtype=torch.float64)
    return (2 * t * variation * log / m).sqrt() + 4 * t * log / (3 * m)


def bound_errors(
    layer: PrunedLayer,
    norms: Tensor,
    *,
    radius: Tensor,
    beta: float,
    activation: str,
    dimension: int,
    c: float,
) -> Paper:
    """`paper_form` with t over the ball of all inputs at hand; without draws, the pruned share of
    t.

    t = max_j max_i |w_ij| phi(beta ||p_j||) / q_j, p_j the point and q_j the probability of neuron
    j; it is the sum of the importances where neurons are drawn by them. `norms` (in,) are the
    ||p_j|| of the inputs of the layer, biases included; `radius` (N,) bounds the inputs of those
    neurons, with the 1 for the bias. An activation that is larger at an input at hand than
    `activation` allows, as one of another kind, counts as it is.

    `data-independent` is `paper_form` with t over the ball of radius `beta`, as the paper states
    it: for every input of at most that norm, whatever the data. Nothing checks that the inputs of a
    layer are within it.

    `ball` and `ball bernstein` take t for the range of a draw, and hold for every input of that
    norm. There is no bound for single weights.
    """
    if layer.by_weight:
        return Paper(None)
    largest = LARGEST[activation]
    measured = _largest_inputs(layer)
    in_ball = torch.maximum(largest(radius.amax() * norms), measured.amax(0))[None]
    ball = _bound_draw(layer, in_ball, by_output=False)
    draws = layer.draws.clamp_min(0).double()
    some_draws = draws.clamp_min(1)
    undrawn = layer.lost * ball

    def error(sampled: Tensor) -> Tensor:
        """The errors of drawn rows and of rows without draws, summed over the sides."""
        sides = torch.where(layer.draws == 0, ball, sampled)
        sides = torch.where(layer.draws < 0, undrawn, sides)
        return sides.expand_as(layer.sums.value).sum(0) + layer.missing.abs()

    def paper(t: Tensor, draws: Tensor = some_draws, dimension: int = dimension) -> Tensor:
        return error(paper_form(t, draws, layer.delta, dimension, c))

    forms = {"ball": error(hoeffding(ball, some_draws, layer.log))}
    if not layer.sampled:
        return Paper(None, forms=forms)
    independent = _bound_draw(layer, largest(beta * norms)[None], by_output=False)
    forms["data-independent"] = paper(independent)
    forms["ball bernstein"] = error(bernstein(ball, layer.sums.size, some_draws, layer.log))
    in_own_ball = largest(radius[:, None] * norms)
    swaps = {
        "the norm of each input": paper(_bound_draw(layer, in_own_ball, by_output=False)),
        "activations as they are": paper(_bound_draw(layer, measured, by_output=False)),
        "outgoing weights of each output": paper(_bound_draw(layer, in_ball, by_output=True)),
        "no union over the ball": paper(ball, dimension=0),
        "distinct neurons for draws": paper(ball, layer.distinct.clamp_min(1)),
    }
    return Paper(paper(ball), swaps, forms=forms)


def _bound_draw(layer: PrunedLayer, activations: Tensor, *, by_output: bool) -> Tensor:
    """t, the largest |w_ij| a_j / q_j for activations a (N, in): of each output, or of all outputs,
    (S, N, out or 1, 1).
    """
    weight = as_matrices(layer.layer, layer.weight).abs()  # (G, O, K)
    groups, outputs = weight.shape[:2]
    outgoing = weight.reshape(groups, outputs, -1, layer.kernel).sum(3)  # (G, O, in / G)
    if layer.first is None and not by_output:
        terms = (outgoing.amax(1).flatten() * activations)[:, None]
    else:
        terms = outgoing[None] * activations.reshape(len(activations), groups, 1, -1)
        if layer.first is not None:  # the inputs of one channel are drawn together
            terms = sum_by_channel(terms[..., None], layer.first[:, None, :, None])[..., 0]
        terms = terms.flatten(1, 2) if by_output else terms.amax(2).flatten(1)[:, None]
    largest = []
    for row in layer.open:
        probabilities = row[None]
        if by_output:
            by_group = row.reshape(groups, 1, -1).expand(-1, outputs, -1)
            probabilities = by_group.flatten(0, 1)  # (out, in / G)
        largest.append(divide_or_zero(terms, probabilities).amax(2))
    return torch.stack(largest)[..., None]


def _largest_inputs(layer: PrunedLayer) -> Tensor:
    """The largest size of each input channel over positions, (N, in)."""
    sizes = layer.patches.abs().amax(3)
    return sizes.reshape(len(sizes), -1, layer.kernel).amax(2)
