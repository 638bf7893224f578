"""The reach of budgets before a job runs: how little of a quantity its methods can leave."""

from __future__ import annotations

from typing import Any

from torch import nn

from pruning.errors import BudgetError
from pruning.masks import find_prunable
from pruning.rounds.budgets import Counter, Gauge
from pruning.rounds.method import PruningMethod
from pruning.rounds.rehearsal import LARGEST
from pruning.schemas.criterion_labels import label_criteria
from pruning.schemas.recipe import Recipe
from pruning.schemas.targets import NOUNS


def measure_reach(
    model: nn.Module, recipe: Recipe, gauge: Gauge
) -> tuple[list[dict[str, Any]], list[str]]:
    """Measure what each criterion of a recipe can leave at the least of what its budgets are told
    in, by random scores; and list the layers left dense.

    Nothing is listed for a network that is too large to be rehearsed: there the job finds out.
    Raises `BudgetError`, with a pointer to the first budget that cannot be reached and the closest
    that can, and what the granularity raises.
    """
    weights = find_prunable(model, recipe.exclude, recipe.include)
    if sum(weight.numel() for weight in weights.values()) > LARGEST:
        return [], []
    reach: list[dict[str, Any]] = []
    reasons: dict[str, str] = {}
    for label, criterion in zip(label_criteria(recipe), recipe.criteria, strict=True):
        method = PruningMethod.of(recipe, criterion)
        counter = Counter.of(gauge, model, criterion, method)
        least, left_dense = counter.find_least(method)
        reasons |= left_dense
        _refuse_unreachable(recipe, gauge, label, least)
        reach.append({"criterion": label, "least": least, "share": least / gauge.dense})
    return reach, [f"{name} is left dense: {reason}" for name, reason in reasons.items()]


def _refuse_unreachable(recipe: Recipe, gauge: Gauge, label: str, least: int) -> None:
    """Raise `BudgetError` for the first budget below the least that a criterion can leave."""
    targets, dense = recipe.targets, gauge.dense
    for index, value in enumerate(targets.values):
        limit = gauge.limit(1.0 - targets.find_removal(value))
        if limit < least:
            raise BudgetError(
                f"{label} cannot reach {limit:,} {NOUNS[gauge.quantity]} ({limit / dense:.4g} of "
                f"the dense network's {dense:,}): what can be reached is {least:,} "
                f"({least / dense:.4g}) to {dense - 1:,}; the closest is {least:,}",
                pointer=f"/targets/{gauge.quantity}/{index}",
            )
