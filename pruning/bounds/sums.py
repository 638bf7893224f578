"""A layer's outputs as sums of drawn terms, and concentration inequalities for these sums.

At one position of one input, output i is z_i = sum_j v_ij, v_ij the contribution of weight j, or of
input channel j. Draws with replacement, j with probability p_j, give (1/m) sum over draws of v_ij /
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
"""The most bytes of terms that one part of the outputs may have."""
CACHE = 2**20
"""The bytes of terms that stay in the processor's cache."""


@dataclass(frozen=True)
class Sums:
    """A layer's sums at some inputs by side, each tensor (S, N, out, L).

    S = 2 for weights, the rows of the law for channels.
    """

    value: Tensor
    """The sum of the terms that can be drawn."""
    size: Tensor
    """The sum of |v_j|: of all terms for weights, of those that can be drawn for channels."""
    variance: Tensor
    """The variance of X."""
    low: Tensor
    """The lower limit of X; at most 0."""
    high: Tensor
    """The upper limit of X; at least 0."""

    @property
    def reach(self) -> Tensor:
        """The largest |v_j| / p_j."""
        return torch.maximum(self.high, -self.low)


def sum_edges(layer: Layer, weight: Tensor, patches: Tensor, probabilities: Tensor) -> Sums:
    """The sums of single weights.

    `patches` are (N, G, K, L), `probabilities` (2 out, K), the rows of positive weights first.

    >>> w, a = torch.tensor([[2.0, 1.0, -1.0]]), torch.tensor([[[[1.0], [2.0], [3.0]]]])
    >>> p = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    >>> sums = sum_edges(torch.nn.Linear(3, 1), w, a, p)
    >>> sums.value.flatten(), sums.high.flatten(), sums.low.flatten()
    (tensor([ 4., -3.]), tensor([4., 0.]), tensor([ 0., -3.]))
    """
    w = as_matrices(layer, weight)
    p = probabilities.to(weight.dtype).reshape(2, *w.shape)
    sides = torch.stack([w.clamp_min(0.0), w.clamp_max(0.0)])  # (2, G, O, K)
    drawn = p > 0
    scaled = divide_or_zero(sides, p)
    value = multiply_patches(sides * drawn, patches)
    second_moment = multiply_patches(sides * scaled, patches.square())
    extremes = [_find_extremes(side, patches) for side in scaled]
    return Sums(
        value=value,
        size=multiply_patches(sides.abs(), patches.abs()),
        variance=(second_moment - value.square()).clamp_min(0.0),
        low=torch.stack([low for low, _ in extremes]),
        high=torch.stack([high for _, high in extremes]),
    )


def sum_channels(
    layer: Layer,
    weight: Tensor,
    patches: Tensor,
    probabilities: Tensor,
    first: Tensor | None = None,
) -> Sums:
    """The sums of input channels; `probabilities` (R, in), a channel above 0 in one row at most.

    Inputs that a flattening makes of one channel are drawn together: `first`, of
    `first_of_channel`, names the first input of each one's channel.

    >>> w, a = torch.tensor([[2.0, -1.0]]), torch.tensor([[[[1.0], [2.0]]]])
    >>> sums = sum_channels(torch.nn.Linear(2, 1), w, a, torch.tensor([[0.5, 0.5]]))
    >>> sums.value.flatten(), sums.variance.flatten(), sums.low.flatten(), sums.high.flatten()
    (tensor([0.]), tensor([16.]), tensor([-4.]), tensor([4.]))
    """
    w = as_matrices(layer, weight)
    groups = count_groups(layer)
    channels = probabilities.shape[1] // groups
    rows = probabilities.to(weight.dtype).reshape(-1, groups, 1, channels, 1)
    parts: list[Tensor] = []
    for outputs in _split_outputs(w, patches, patches.shape[-1] * channels):
        # by group g, output o, channel c, weight k of the kernel, input n and position l
        by_channel = outputs.reshape(*outputs.shape[:2], channels, -1)
        unfolded = patches.reshape(*patches.shape[:2], channels, -1, patches.shape[-1])
        terms = torch.einsum("gock,ngckl->ngocl", by_channel, unfolded)
        sizes = torch.einsum("gock,ngckl->ngocl", by_channel.abs(), unfolded.abs())
        if first is not None:
            terms = sum_by_channel(terms, first[None, :, None, :, None])
        by_row = [_sum_row(terms, sizes, p) for p in rows]
        parts.append(torch.stack(by_row, 1))
    value, size, variance, low, high = _join_groups(torch.cat(parts, 4))
    return Sums(value=value, size=size, variance=variance, low=low, high=high)


def first_of_channel(layer: Layer, channels: Tensor) -> Tensor:
    """For every input of a layer, the first one in its group that is the same channel, (G, in / G);
    `channels` (in,) numbers.

    >>> first_of_channel(torch.nn.Linear(4, 1), torch.tensor([7, 7, 3, 3]))
    tensor([[0, 0, 2, 2]])
    """
    by_group = channels.reshape(count_groups(layer), -1)
    groups, inputs = by_group.shape
    places = torch.arange(inputs).expand_as(by_group)
    # an offset for each group, so that no number is in two of them
    offsets = (int(channels.max()) + 1) * torch.arange(groups)[:, None]
    _, numbers = torch.unique(by_group + offsets, return_inverse=True)
    # the smallest place of each number
    first = torch.full((groups * inputs,), inputs)
    first = first.scatter_reduce(0, numbers.flatten(), places.flatten(), "amin")
    return first[numbers]


def sum_by_channel(terms: Tensor, first: Tensor) -> Tensor:
    """The terms of inputs that are drawn together, summed at the first input; 0 at the others.

    `terms` are (..., C, L), summed along C; `first` broadcasts against them.

    >>> sum_by_channel(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[0], [1], [0]])).flatten()
    tensor([4., 2., 0.])
    """
    return torch.zeros_like(terms).scatter_add_(-2, first.expand_as(terms), terms)


def divide_or_zero(values: Tensor, divisors: Tensor) -> Tensor:
    """Values over divisors, 0 where a divisor is 0; no divisor is negative.

    >>> divide_or_zero(torch.tensor([3.0, 3.0]), torch.tensor([2.0, 0.0]))
    tensor([1.5000, 0.0000])
    """
    usable = divisors > 0
    return torch.where(usable, values / torch.where(usable, divisors, 1.0), 0.0)


def multiply_patches(weights: Tensor, patches: Tensor) -> Tensor:
    """Weights (S, G, O, K) times patches (N, G, K, L), (S, N, out, L), in one large product."""
    columns = patches.permute(1, 2, 0, 3).flatten(2)  # (G, K, N L)
    products = weights @ columns  # (S, G, O, N L)
    by_input = products.reshape(*products.shape[:3], len(patches), -1)
    return _join_groups(by_input.permute(0, 3, 1, 2, 4))


def hoeffding(sums: Sums, draws: Tensor, log: float) -> Tensor:
    """(high - low) sqrt(log / (2 m)) by side: P(|mean - z| >= it) <= 2 exp(-log).

    `draws` broadcasts against the sides.
    """

    def width(m: Tensor) -> Tensor:
        return (sums.high - sums.low) * (log / (2 * m)).sqrt()

    return _apply_to_drawn(sums, draws, width)


def bernstein(sums: Sums, draws: Tensor, log: float) -> Tensor:
    """u + sqrt(u^2 + 2 variance log / m), u = b log / (3 m), b the largest |X - z|.

    It is the exact inverse of Bernstein's inequality.
    """
    reach = torch.maximum(sums.high - sums.value, sums.value - sums.low)

    def width(m: Tensor) -> Tensor:
        u = reach * log / (3 * m)
        return u + (u.square() + 2 * sums.variance * log / m).sqrt()

    return _apply_to_drawn(sums, draws, width)


def add_errors(sides: Tensor, missing: Tensor) -> Tensor:
    """The errors of all sides together with the terms pruned for certain, (N, out, L)."""
    return sides.sum(0) + missing.abs()


def _sum_row(terms: Tensor, sizes: Tensor, p: Tensor) -> Tensor:
    """Value, size, variance, low and high of the terms (N, G, O, C, L) that a row of probabilities
    (G, 1, C, 1) draws.
    """
    drawn = p > 0
    scaled = divide_or_zero(terms, p)
    value = (terms * drawn).sum(3)
    size = (sizes * drawn).sum(3)
    variance = ((terms * scaled).sum(3) - value.square()).clamp_min(0.0)
    low = scaled.amin(3).clamp_max(0.0)
    high = scaled.amax(3).clamp_min(0.0)
    return torch.stack([value, size, variance, low, high])


def _apply_to_drawn(sums: Sums, draws: Tensor, width: Callable[[Tensor], Tensor]) -> Tensor:
    """`width` of the draws; 0 for a side that is kept (draws below 0), the whole sum for a side of
    which nothing is drawn.
    """
    m = draws.to(sums.value.dtype)
    error = torch.where(draws == 0, sums.value.abs(), width(m.clamp_min(1.0)))
    return torch.where(draws < 0, 0.0, error)


def _find_extremes(scaled: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest of 0 and the terms of (G, O, K) weights of one sign at patches (N,
    G, K, L): twice (N, out, L).
    """
    positive = not bool((scaled < 0).any())
    signed = bool((patches < 0).any())
    low = patches.new_zeros(len(patches), *scaled.shape[:2], patches.shape[-1])
    high = low.clone()
    # input by input and few outputs at a time, so that the terms stay in the cache; a GPU would
    # take longer to start many small operations than to compute them
    bytes_per_output = patches.element_size() * patches[0].numel()
    block = max(1, (BYTES if patches.is_cuda else CACHE) // bytes_per_output)
    for n, inputs in enumerate(patches):
        for start in range(0, scaled.shape[1], block):
            outputs = slice(start, start + block)
            terms = scaled[:, outputs, :, None] * inputs[:, None]
            if positive or signed:
                high[n, :, outputs] = terms.amax(2).clamp_min(0.0)
            if signed or not positive:
                low[n, :, outputs] = terms.amin(2).clamp_max(0.0)
    return _join_groups(low), _join_groups(high)


def _split_outputs(weights: Tensor, patches: Tensor, terms: int) -> tuple[Tensor, ...]:
    """The weights (G, O, K) in parts of some outputs, so that `terms` terms of each output, at all
    inputs, take little memory.
    """
    bytes_per_output = patches.element_size() * len(patches) * len(weights) * terms
    outputs = max(1, BYTES // max(1, bytes_per_output))
    return torch.split(weights, outputs, 1)


def _join_groups(values: Tensor) -> Tensor:
    """Values (..., G, O, L) as (..., out, L)."""
    return values.flatten(-3, -2)
