"""The rows of a law where nothing was drawn: of weights (2 out, K), of input channels (1, in)."""

from __future__ import annotations

import torch
from torch import Tensor

from pruning.networks.layers import Layer, as_matrices, count_groups
from pruning.types import DrawLaw


def arrange_by_row(score: Tensor, layer: Layer, weight: Tensor, channels: bool) -> Tensor:
    """Scores as the law has its rows; where they are no shares of a sum, the sizes of the weights
    stand for them.
    """
    usable = bool((score >= 0).all())
    if channels:
        if usable and score.shape[:2] == (1, weight.shape[1]) and score.numel() == weight.shape[1]:
            return score.flatten().repeat(count_groups(layer))[None].double()
        by_group = as_matrices(layer, weight.abs())  # (G, O, K)
        return (
            by_group.reshape(*by_group.shape[:2], weight.shape[1], -1)
            .sum(3)
            .amax(1)
            .flatten()[None]
            .double()
        )
    found = (score.expand_as(weight) if usable else weight.abs()).double().flatten(1)
    return torch.cat([found * (weight.flatten(1) > 0), found * (weight.flatten(1) < 0)])


def certain_law(scores: Tensor) -> DrawLaw:
    """Of a row from which nothing is drawn."""
    sums = scores.sum(1, keepdim=True)
    return DrawLaw(
        torch.where(sums > 0, scores / torch.where(sums > 0, sums, 1.0), 0.0),
        torch.full((len(scores),), -1, device=scores.device),
    )


def find_columns_read(mask: Tensor, layer: Layer) -> Tensor:
    """Which input channels any output still reads, (in,)."""
    by_group = (
        mask.reshape(count_groups(layer), -1, *mask.shape[1:]).transpose(1, 2).flatten(2)
    )  # (G, in / G, ...)
    return by_group.any(2).flatten()
