"""A rehearsal before a job runs, with random scores: whether patterns allow its targets."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, nn

from pruning.errors import BudgetError
from pruning.granularities.weight import Weight
from pruning.masks import build_full_masks, count_kept, find_prunable, select_weight_masks
from pruning.rounds.costs import build_empty_error, may_be_empty
from pruning.rounds.method import PruningMethod
from pruning.rounds.plan import PlannedRound, plan_rounds, split_stretches
from pruning.schemas.recipe import Recipe
from pruning.types import Scores, Selection, Shape

LARGEST = 50_000_000
"""The most prunable weights of a network that is rehearsed; with a larger one the job finds out."""
ROUNDS = 100
"""The most rounds that are rehearsed; of a longer job only those that end at targets are."""
DRAWS = 5
"""The draws of random scores: a round is refused as empty only where it is empty with each of them,
as the choice of channels may decide how many are removed.
"""


@dataclass(frozen=True)
class _Network:
    """The network that is pruned, and what follows from its structure for all rounds and draws."""

    model: nn.Module
    weights: Scores
    shape: Shape
    known: dict[Hashable, Any] = field(default_factory=dict)


def rehearse(model: nn.Module, recipe: Recipe, shape: Shape) -> list[str]:
    """Prune an untrained network by random scores, and return which layers are left dense, and why.

    Single weights can be pruned to any density: only other granularities are tried, and all where
    layers have sparsities of their own. Raises what the
    job would raise: `BudgetError` for a density that cannot be reached, `ParameterError` for
    choices that do not go together, `StructureError` for a network whose channels cannot be
    distinguished. `BudgetError` too where a round would be retrained but removes nothing, because
    the weights that can only be removed together are more than the step from the round before.

    >>> from pruning.schemas.recipe import Targets
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> recipe = Recipe(granularity={"name": "n_m"}, targets=Targets(sparsity=(0.5,)))
    >>> rehearse(net, recipe, (1, 2, 2))
    []
    >>> recipe = recipe.model_copy(update={"targets": Targets(sparsity=(0.9,))})
    >>> rehearse(net, recipe, (1, 2, 2))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    pruning.errors.BudgetError: density 0.1 cannot be ... with 2:4: the least is 0.5...
    """
    weights = {
        name: weight.detach()
        for name, weight in find_prunable(model, recipe.exclude, recipe.include).items()
    }
    if sum(weight.numel() for weight in weights.values()) > LARGEST:
        return []
    planned_rounds = plan_rounds(recipe)
    if recipe.targets.are_searched:
        # The first step has to be possible; steps that are not are beyond the limit.
        planned_rounds = split_stretches(planned_rounds)[0]
    if may_be_empty(recipe) or len(planned_rounds) > ROUNDS:
        planned_rounds = [planned for planned in planned_rounds if planned.target is not None]
    reasons: dict[str, str] = {}
    network = _Network(model, weights, shape)
    for method in _list_methods(recipe):
        refusals: dict[int, BudgetError] = {}
        for seed in range(DRAWS):
            empty_rounds, left_dense = _rehearse_rounds(
                network,
                planned_rounds=planned_rounds,
                method=method,
                independent=recipe.restarts,
                pointer=f"/targets/{recipe.targets.quantity}",
                generator=torch.Generator().manual_seed(seed),
            )
            reasons |= left_dense
            # Only rounds that were empty with every draw so far remain refused.
            refusals = {
                number: error
                for number, error in empty_rounds.items()
                if seed == 0 or number in refusals
            }
            if may_be_empty(recipe) or not refusals:
                break
        else:
            raise refusals[min(refusals)]
    return [f"{name} is left dense: {reason}" for name, reason in reasons.items()]


def _list_methods(recipe: Recipe) -> list[PruningMethod]:
    """The methods of a recipe that are rehearsed: those that random scores distinguish, without
    single weights unless layers have sparsities of their own.
    """
    methods: list[PruningMethod] = []
    for criterion in recipe.criteria:
        method = PruningMethod.of(recipe, criterion)
        repeated = any(
            earlier.granularity == method.granularity and earlier.allocation == method.allocation
            for earlier in methods
        )
        if not repeated and (recipe.overrides or not isinstance(method.granularity, Weight)):
            methods.append(method)
    return methods


def _rehearse_rounds(
    network: _Network,
    *,
    planned_rounds: Sequence[PlannedRound],
    method: PruningMethod,
    independent: bool,
    pointer: str,
    generator: Generator,
) -> tuple[dict[int, BudgetError], Mapping[str, str]]:
    """The refusals of the rounds that remove nothing, by number, with one draw of scores for all
    rounds; and the layers that the last round leaves dense, with the reasons.
    """
    weights = network.weights
    scores = {
        name: torch.rand(weight.shape, generator=generator) for name, weight in weights.items()
    }
    total = sum(weight.numel() for weight in weights.values())
    refusals: dict[int, BudgetError] = {}
    left_dense: Mapping[str, str] = {}
    masks, kept = build_full_masks(weights), total
    after_target = True
    for planned in planned_rounds:
        if independent and after_target:
            masks, kept = build_full_masks(weights), total
        alive = {name: score.masked_fill(~masks[name], -math.inf) for name, score in scores.items()}
        try:
            selected = method.select(
                Selection(
                    model=network.model,
                    weights=weights,
                    scores=alive,
                    masks=masks,
                    density=planned.density,
                    allocation=method.allocation,
                    sparsifier=method.sparsifier,
                    generator=generator,
                    shape=lambda: network.shape,
                    known=network.known,
                )
            )
        except BudgetError as error:
            raise BudgetError(error.message, pointer=error.pointer or pointer) from None
        masks, left_dense = selected.masks, selected.left_dense
        before = kept
        kept = sum(count_kept(select_weight_masks(masks)).values())
        if kept == before:
            refusals[planned.number] = build_empty_error(
                planned, kept, total, after_target=after_target
            )
        after_target = planned.target is not None
    return refusals, left_dense
