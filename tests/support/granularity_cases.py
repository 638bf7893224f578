"""A network for patterns of weights, its matrices entry by entry, and a selection."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from pruning.allocations import allocations
from pruning.masks import build_full_masks, find_prunable
from pruning.sparsifiers.top_k import TopK
from pruning.types import Granularity, Masks, Scores, Selection


def build_net(stem: int = 4) -> nn.Sequential:
    """Build a convolution of `stem` input channels, another, and a head."""
    return nn.Sequential(
        nn.Conv2d(stem, 8, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(8, 4, 2, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36, 8),
    )


def draw_scores(model: nn.Module, seed: int = 0, high: int = 1000) -> Scores:
    """Draw whole numbers, so that sums are exact and ties occur."""
    rng = torch.Generator().manual_seed(seed)
    return {
        name: torch.randint(1, high, weight.shape, generator=rng).double()
        for name, weight in find_prunable(model).items()
    }


def select(
    granularity: Granularity,
    model: nn.Module,
    target: float,
    scores: Scores,
    masks: Masks | None = None,
    allocation: str = "global",
) -> tuple[Masks, dict[str, str]]:
    """Select by a granularity alone; return the masks, and why layers were left dense."""
    weights = {name: weight.detach() for name, weight in find_prunable(model).items()}
    masks = masks or build_full_masks(weights)
    alive = {
        name: score.masked_fill(~masks[name], -math.inf)
        if score.shape == masks[name].shape
        else score
        for name, score in scores.items()
    }
    selected = granularity.select(
        Selection(
            model=model,
            weights=weights,
            scores=alive,
            masks=masks,
            density=target,
            allocation=allocations.create(allocation),
            sparsifier=TopK(),
            generator=torch.Generator(),
            shape=lambda: (4, 4, 4),
        )
    )
    assert all(not (selected.masks[name] & ~masks[name]).any() for name in masks), (
        "masks are not nested"
    )
    return selected.masks, dict(selected.left_dense)


def list_entries(weight: Tensor, row: int, column: int) -> tuple[int, ...]:
    """List the indices into the weight of its matrix's entries.

    In the order kernel row, kernel column, input channel.
    """
    if weight.dim() == 2:
        return row, column
    _, channels, _, width = weight.shape
    place, channel = divmod(column, channels)
    return row, channel, place // width, place % width


def build_matrix(value: Tensor) -> list[list[float]]:
    """Build the matrix with the input channel fastest, entry by entry."""
    return [
        [value[list_entries(value, row, column)].item() for column in range(value[0].numel())]
        for row in range(len(value))
    ]


def list_blocks(
    matrix: list[list[float]], rows: int, columns: int
) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """List the members of every block."""
    members: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for row, column in itertools.product(range(len(matrix)), range(len(matrix[0]))):
        members.setdefault((row // rows, column // columns), []).append((row, column))
    return members
