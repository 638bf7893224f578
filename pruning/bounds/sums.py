"""A layer's outputs as sums of which terms are drawn, and what concentration says of the sums
drawn.

At one position of one input, output i is z_i = sum_j v_ij, v_ij what weight j, or input channel j,
contributes. Draws with replacement, j with probability p_j, give (1/m) sum over draws of v_ij /
p_j, the mean of m independent terms X with mean z_i. The inequalities are textbook; that they are
applied to signed inputs and to whole channels is derived here. Weights are drawn by side, those of
one sign for each filter; whole channels for all filters at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pruning.networks.layers import Layer, as_matrices, count_groups

BYTES = 48 * 2**20
"""What the terms of one part of the outputs may take."""
CACHE = 2**20
"""Bytes of terms that stay in the processor's cache."""


@dataclass(frozen=True)
class Sums:
    """What is known of a layer's sums at some inputs, by side, each tensor (S, N, out, L); S = 2
    for weights, the rows of the law for channels.
    """

    value: Tensor
    """Of the terms that can be drawn."""
    size: Tensor
    """Of all terms, each taken absolutely."""
    variance: Tensor
    """Of X."""
    low: Tensor
    """What X is never below; at most 0."""
    high: Tensor
    """What X is never above; at least 0."""

    @property
    def reach(self) -> Tensor:
        """The largest |v_j| / p_j."""
        return torch.maximum(self.high, -self.low)


def sum_edges(layer: Layer, weight: Tensor, patches: Tensor, probabilities: Tensor) -> Sums:
    """Those of single weights; `patches` (N, G, K, L), `probabilities` (2 out, K), positive
    weights' rows first.

    >>> w, a = torch.tensor([[2.0, 1.0, -1.0]]), torch.tensor([[[[1.0], [2.0], [3.0]]]])
    >>> p = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    >>> sums = sum_edges(torch.nn.Linear(3, 1), w, a, p)
    >>> sums.value.flatten(), sums.high.flatten(), sums.low.flatten()
    (tensor([ 4., -3.]), tensor([4., 0.]), tensor([ 0., -3.]))
    """
    w, p = (
        as_matrices(layer, weight),
        probabilities.to(weight.dtype).reshape(2, *as_matrices(layer, weight).shape),
    )
    sides = torch.stack([w.clamp_min(0.0), w.clamp_max(0.0)])  # (2, G, O, K)
    drawn = p > 0
    scaled = torch.where(drawn, sides / torch.where(drawn, p, 1.0), 0.0)
    value = multiply_patches(sides * drawn, patches)
    second = multiply_patches(sides * scaled, patches.square())
    low, high = zip(*(_extremes(side, patches) for side in scaled), strict=True)
    return Sums(
        value,
        multiply_patches(sides.abs(), patches.abs()),
        (second - value.square()).clamp_min(0.0),
        torch.stack(low),
        torch.stack(high),
    )


def sum_channels(
    layer: Layer,
    weight: Tensor,
    patches: Tensor,
    probabilities: Tensor,
    first: Tensor | None = None,
) -> Sums:
    """Those of input channels; `probabilities` (R, in), a channel above 0 in one row at most.

    Inputs that a flattening makes of one channel are drawn together: `first` of `first_of_channel`
    says which they are.

    >>> w, a = torch.tensor([[2.0, -1.0]]), torch.tensor([[[[1.0], [2.0]]]])
    >>> sums = sum_channels(torch.nn.Linear(2, 1), w, a, torch.tensor([[0.5, 0.5]]))
    >>> sums.value.flatten(), sums.variance.flatten(), sums.low.flatten(), sums.high.flatten()
    (tensor([0.]), tensor([16.]), tensor([-4.]), tensor([4.]))
    """
    w = as_matrices(layer, weight)
    channels = probabilities.shape[1] // count_groups(layer)
    rows = probabilities.to(weight.dtype).reshape(-1, count_groups(layer), 1, channels, 1)
    each: list[Tensor] = []
    for part, inputs in _parts(w, patches, patches.shape[-1] * channels):
        by_channel = part.reshape(*part.shape[:2], channels, -1)
        unfolded = inputs.reshape(*inputs.shape[:2], channels, -1, inputs.shape[-1])
        terms = torch.einsum("gock,ngckl->ngocl", by_channel, unfolded)
        sizes = torch.einsum("gock,ngckl->ngocl", by_channel.abs(), unfolded.abs())
        terms = terms if first is None else sum_by_channel(terms, first[None, :, None, :, None])
        each.append(torch.stack([_row(terms, sizes, p) for p in rows], 1))
    value, size, variance, low, high = _outputs(torch.cat(each, 4))
    return Sums(value, size, variance, low, high)


def first_of_channel(layer: Layer, channels: Tensor) -> Tensor:
    """Of every input of a layer, the first one in its group that is the same channel, (G, in / G);
    `channels` (in,) numbers.

    >>> first_of_channel(torch.nn.Linear(4, 1), torch.tensor([7, 7, 3, 3]))
    tensor([[0, 0, 2, 2]])
    """
    by_group = channels.reshape(count_groups(layer), -1)
    places = torch.arange(by_group.shape[1]).expand_as(by_group)
    each = by_group + (int(channels.max()) + 1) * torch.arange(len(by_group))[:, None]
    _, numbers = torch.unique(each, return_inverse=True)
    least = torch.full((each.numel(),), each.shape[1]).scatter_reduce(
        0, numbers.flatten(), places.flatten(), "amin"
    )
    return least[numbers]


def sum_by_channel(terms: Tensor, first: Tensor) -> Tensor:
    """Terms with what is drawn together summed at the first of its inputs, 0 at the others; along
    the last but one dimension of `terms`, (..., C, L), with `first` to broadcast against it.

    >>> sum_by_channel(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[0], [1], [0]])).flatten()
    tensor([4., 2., 0.])
    """
    return torch.zeros_like(terms).scatter_add_(-2, first.expand_as(terms), terms)


def multiply_patches(weights: Tensor, patches: Tensor) -> Tensor:
    """Weights (S, G, O, K) times patches (N, G, K, L): (S, N, out, L), one large product for all
    inputs and positions.
    """
    columns = patches.permute(1, 2, 0, 3).flatten(2)  # (G, K, N L)
    found = weights @ columns  # (S, G, O, N L)
    return _outputs(found.reshape(*found.shape[:3], len(patches), -1).permute(0, 3, 1, 2, 4))


def hoeffding(sums: Sums, draws: Tensor, log: float) -> Tensor:
    """(high - low) sqrt(log / (2 m)) by side; P(|mean - z| >= it) <= 2 exp(-log). `draws`
    broadcasts against the sides.
    """
    return _drawn(sums, draws, lambda m: (sums.high - sums.low) * (log / (2 * m)).sqrt())


def bernstein(sums: Sums, draws: Tensor, log: float) -> Tensor:
    """u + sqrt(u^2 + 2 variance log / m), u = b log / (3 m), b the largest |X - z|: the exact
    inverse of Bernstein's.
    """
    reach = torch.maximum(sums.high - sums.value, sums.value - sums.low)

    def width(m: Tensor) -> Tensor:
        u = reach * log / (3 * m)
        return u + (u.square() + 2 * sums.variance * log / m).sqrt()

    return _drawn(sums, draws, width)


def add_errors(sides: Tensor, missing: Tensor) -> Tensor:
    """The errors of the sides together, and what is pruned for certain: (N, out, L)."""
    return sides.sum(0) + missing.abs()


def _row(terms: Tensor, sizes: Tensor, p: Tensor) -> Tensor:
    """Value, size, variance, low and high of the terms (N, G, O, C, L) that a row of probabilities
    (G, 1, C, 1) draws.
    """
    drawn = p > 0
    scaled = torch.where(drawn, terms / torch.where(drawn, p, 1.0), 0.0)
    value = (terms * drawn).sum(3)
    variance = ((terms * scaled).sum(3) - value.square()).clamp_min(0.0)
    return torch.stack(
        [
            value,
            (sizes * drawn).sum(3),
            variance,
            scaled.amin(3).clamp_max(0.0),
            scaled.amax(3).clamp_min(0.0),
        ]
    )


def _drawn(sums: Sums, draws: Tensor, width: Callable[[Tensor], Tensor]) -> Tensor:
    """`width` of the draws; 0 for a side that is kept (draws below 0), the whole sum for one of
    which nothing is drawn.
    """
    m = draws.to(sums.value.dtype)
    found = torch.where(draws == 0, sums.value.abs(), width(m.clamp_min(1.0)))
    return torch.where(draws < 0, 0.0, found)


def _extremes(scaled: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest term of (G, O, K) weights of one sign, and 0, at patches (N, G, K,
    L): twice (N, out, L).
    """
    positive, nothing = (
        not bool((scaled < 0).any()),
        patches.new_zeros(len(patches), *scaled.shape[:2], patches.shape[-1]),
    )
    signed = bool((patches < 0).any())
    low, high = nothing, nothing.clone()
    block = max(1, CACHE // (patches.element_size() * patches[0].numel()))
    for n, inputs in enumerate(patches):
        for start in range(0, scaled.shape[1], block):
            terms = scaled[:, start : start + block, :, None] * inputs[:, None]
            if positive or signed:
                high[n, :, start : start + block] = terms.amax(2).clamp_min(0.0)
            if signed or not positive:
                low[n, :, start : start + block] = terms.amin(2).clamp_max(0.0)
    return _outputs(low), _outputs(high)


def _parts(weights: Tensor, patches: Tensor, terms: int) -> list[tuple[Tensor, Tensor]]:
    """The weights (G, O, K) in parts of some outputs, so that so many terms of each, at all inputs,
    take little memory.
    """
    each = patches.element_size() * len(patches) * len(weights) * terms
    return [(part, patches) for part in torch.split(weights, max(1, BYTES // max(1, each)), 1)]


def _outputs(found: Tensor) -> Tensor:
    """(..., N, G, O, L) as (..., N, out, L)."""
    return found.flatten(-3, -2)
