"""Whether patterns and channels allow the targets of a recipe: found out before the job runs, with random scores."""

from __future__ import annotations

import torch
from torch import nn

from pruning.errors import BudgetError
from pruning.granularities.weight import Weight
from pruning.masks import full_masks, prunable
from pruning.round import Seams
from pruning.schemas.recipe import Recipe
from pruning.types import Selection, Shape

LARGEST = 50_000_000
"""Prunable weights of a network that is rehearsed; with larger ones the job itself finds out."""


def rehearse(model: nn.Module, recipe: Recipe, shape: Shape) -> list[str]:
    """Prune an untrained network to every target by random scores, and tell which layers are left dense, and why.

    Single weights can be pruned to any density: only other granularities are tried. Raises what the job would raise:
    `BudgetError` for a density that cannot be had, `ParameterError` for choices that do not go together,
    `StructureError` for a network whose channels cannot be told apart.

    >>> from pruning.schemas.recipe import Targets
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> recipe = Recipe(granularity={"name": "n_m"}, targets=Targets(sparsity=(0.5,)))
    >>> rehearse(net, recipe, (1, 2, 2))
    []
    >>> rehearse(net, recipe.model_copy(update={"targets": Targets(sparsity=(0.9,))}), (1, 2, 2))
    Traceback (most recent call last):
    ...
    pruning.errors.BudgetError: density 0.1 cannot be had with 2:4: the least is 0.5, and any above it
    """
    weights = {name: weight.detach() for name, weight in prunable(model, recipe.exclude).items()}
    if sum(weight.numel() for weight in weights.values()) > LARGEST:
        return []
    generator = torch.Generator().manual_seed(0)
    found: dict[str, str] = {}
    tried: list[Seams] = []
    for method in recipe.criteria:
        seams = Seams.of(recipe, method)
        same = any((one.granularity, one.allocation) == (seams.granularity, seams.allocation) for one in tried)
        if same or isinstance(seams.granularity, Weight):
            continue
        tried.append(seams)
        for sparsity in recipe.targets.sparsity:
            scores = {name: torch.rand(weight.shape, generator=generator) for name, weight in weights.items()}
            try:
                selected = seams.granularity.select(Selection(
                    model, weights, scores, full_masks(weights), 1 - sparsity, seams.allocation, seams.sparsifier,
                    generator, lambda: shape))
            except BudgetError as error:
                raise BudgetError(error.message, pointer=error.pointer or "/targets/sparsity") from None
            found |= selected.left_dense
    return [f"{name} is left dense: {reason}" for name, reason in found.items()]
