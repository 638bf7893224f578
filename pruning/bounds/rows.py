"""The rows of a law where nothing was drawn: of weights (2 out, K), of input channels (1, in)."""

from __future__ import annotations

import torch
from torch import Tensor

from pruning.bounds.sums import divide_or_zero
from pruning.networks.layers import Layer, as_matrices, count_groups
from pruning.types import DrawLaw


def arrange_by_row(score: Tensor, layer: Layer, weight: Tensor, *, channels: bool) -> Tensor:
    """Scores in the rows of a law; where some are negative, the sizes of the weights in their
    place.
    """
    usable = bool((score >= 0).all())
    if channels:
        inputs = weight.shape[1]
        one_by_channel = score.shape[:2] == (1, inputs) and score.numel() == inputs
        if usable and one_by_channel:
            return score.flatten().repeat(count_groups(layer))[None].double()
        return _measure_channels(layer, weight)
    size = score.expand_as(weight) if usable else weight.abs()
    scores = size.double().flatten(1)
    rows = weight.flatten(1)
    return torch.cat([scores * (rows > 0), scores * (rows < 0)])


def _measure_channels(layer: Layer, weight: Tensor) -> Tensor:
    """The largest sum over a kernel of |w| that reads each input channel, (1, in)."""
    by_group = as_matrices(layer, weight.abs())  # (G, O, K)
    groups, outputs = by_group.shape[:2]
    by_channel = by_group.reshape(groups, outputs, weight.shape[1], -1)
    return by_channel.sum(3).amax(1).flatten()[None].double()


def certain_law(scores: Tensor) -> DrawLaw:
    """The law of rows from which nothing is drawn: probabilities in proportion to the scores."""
    sums = scores.sum(1, keepdim=True)
    no_draws = torch.full((len(scores),), -1, device=scores.device)
    return DrawLaw(divide_or_zero(scores, sums), no_draws)


def find_columns_read(mask: Tensor, layer: Layer) -> Tensor:
    """The input channels that any output still reads, bool (in,)."""
    by_output = mask.reshape(count_groups(layer), -1, *mask.shape[1:])  # (G, O, in / G, ...)
    by_channel = by_output.transpose(1, 2).flatten(2)  # (G, in / G, ...)
    return by_channel.any(2).flatten()
