"""Whether patterns and channels allow the targets of a recipe: found out before the job runs, with
random scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Generator, nn

from pruning.errors import BudgetError
from pruning.granularities.weight import Weight
from pruning.masks import build_full_masks, count_kept, find_prunable, select_weight_masks
from pruning.rounds.costs import build_empty_error, may_be_empty
from pruning.rounds.method import PruningMethod
from pruning.rounds.plan import PlannedRound, plan_rounds
from pruning.schemas.recipe import Recipe
from pruning.types import Scores, Selection, Shape

LARGEST = 50_000_000
"""Prunable weights of a network that is rehearsed; with larger ones the job itself finds out."""
ROUNDS = 100
"""Of a job with more, only the rounds that end at targets are rehearsed."""
DRAWS = 5
"""Of random scores: a round is refused as empty only where it is with each, as which channels go
may decide how many.
"""


def rehearse(model: nn.Module, recipe: Recipe, shape: Shape) -> list[str]:
    """Prune an untrained network by random scores, and tell which layers are left dense, and why.

    Single weights can be pruned to any density: only other granularities are tried. Raises what the
    job would raise: `BudgetError` for a density that cannot be had, `ParameterError` for choices
    that do not go together, `StructureError` for a network whose channels cannot be told apart.
    `BudgetError` too where a round would be retrained but removes nothing, because what goes
    together is larger than the step from the round before.

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
    weights = {
        name: weight.detach() for name, weight in find_prunable(model, recipe.exclude).items()
    }
    if sum(weight.numel() for weight in weights.values()) > LARGEST:
        return []
    planned = plan_rounds(recipe)
    if may_be_empty(recipe) or len(planned) > ROUNDS:
        planned = [one for one in planned if one.target is not None]
    found: dict[str, str] = {}
    tried: list[PruningMethod] = []
    for method in recipe.criteria:
        seams = PruningMethod.of(recipe, method)
        same = any(
            (one.granularity, one.allocation) == (seams.granularity, seams.allocation)
            for one in tried
        )
        if same or isinstance(seams.granularity, Weight):
            continue
        tried.append(seams)
        refusals: dict[int, BudgetError] = {}
        for seed in range(DRAWS):
            generator = torch.Generator().manual_seed(seed)
            empties, left_dense = _cascade(
                model,
                weights,
                planned=planned,
                seams=seams,
                independent=recipe.independent,
                shape=shape,
                generator=generator,
            )
            found |= left_dense
            refusals = {
                number: error
                for number, error in empties.items()
                if seed == 0 or number in refusals
            }
            if may_be_empty(recipe) or not refusals:
                break
        else:
            raise refusals[min(refusals)]
    return [f"{name} is left dense: {reason}" for name, reason in found.items()]


def _cascade(
    model: nn.Module,
    weights: Scores,
    *,
    planned: Sequence[PlannedRound],
    seams: PruningMethod,
    independent: bool,
    shape: Shape,
    generator: Generator,
) -> tuple[dict[int, BudgetError], Mapping[str, str]]:
    """By number the refusals of the rounds that remove nothing, with one draw of scores for all;
    and what is left dense.
    """
    scores = {
        name: torch.rand(weight.shape, generator=generator) for name, weight in weights.items()
    }
    total = sum(weight.numel() for weight in weights.values())
    refusals: dict[int, BudgetError] = {}
    left_dense: Mapping[str, str] = {}
    masks, kept, reached = build_full_masks(weights), total, True
    for one in planned:
        if independent and reached:
            masks, kept = build_full_masks(weights), total
        alive = {name: score.masked_fill(~masks[name], -math.inf) for name, score in scores.items()}
        try:
            selected = seams.granularity.select(
                Selection(
                    model=model,
                    weights=weights,
                    scores=alive,
                    masks=masks,
                    density=one.density,
                    allocation=seams.allocation,
                    sparsifier=seams.sparsifier,
                    generator=generator,
                    shape=lambda: shape,
                )
            )
        except BudgetError as error:
            raise BudgetError(error.message, pointer=error.pointer or "/targets/sparsity") from None
        masks, left_dense = selected.masks, selected.left_dense
        before, kept = kept, sum(count_kept(select_weight_masks(masks)).values())
        if kept == before:
            refusals[one.number] = build_empty_error(one, kept, total, after_target=reached)
        reached = one.target is not None
    return refusals, left_dense
