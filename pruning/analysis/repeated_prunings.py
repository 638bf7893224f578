"""Prunings of the dense network repeated under further draws of calibration images, without
retraining: how much of a loss is the draw's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pruning.analysis.job_record import JobRecord, RoundRecord
from pruning.analysis.job_size import JobSize
from pruning.errors import PRUNING_ERRORS
from pruning.evidence.calibration import count_loss_images, measure_training_losses
from pruning.masks import find_prunable
from pruning.rounds.costs import Costs
from pruning.rounds.given_zeros import GivenZeros
from pruning.rounds.method import PruningMethod
from pruning.rounds.plan import PlannedRound, plan_costliest_rounds, plan_rounds
from pruning.rounds.pruning import prune_
from pruning.rounds.round_evidence import collect_evidence
from pruning.schemas.recipe import Method, Recipe
from pruning.seeding import generator


class RepeatedPrunings:
    """The losses right after the pruning of rounds that start from the dense network, under several
    draws of calibration images and of random choices; each round is repeated once.
    """

    def __init__(self, record: JobRecord, draws: int) -> None:
        self.record = record
        self.draws = draws
        self._planned = plan_repeatable(record.recipe)
        self._losses: dict[tuple[str, int], Tensor | None] = {}

    def losses(self, row: RoundRecord) -> Tensor | None:
        """The losses on the job's sample of training images, float32 (draws, n), that of the job
        itself first.

        None for a round that goes on from another, whose draws and training cannot be repeated
        without retraining, for a single draw, and where a repetition fails.
        """
        key = row.label, row.round
        if key not in self._losses:
            self._losses[key] = self._repeat(row)
        return self._losses[key]

    def _repeat(self, row: RoundRecord) -> Tensor | None:
        planned = self._planned.get(row.round)
        if planned is None or self.draws < 2:
            return None
        _, own = row.losses()
        losses = [own]
        for number in range(1, self.draws):
            try:
                losses.append(self._prune_again(row, planned, number))
            except PRUNING_ERRORS:
                return None
        return torch.stack(losses)

    def _prune_again(self, row: RoundRecord, planned: PlannedRound, number: int) -> Tensor:
        """The losses after the pruning of a round under the draw of this number."""
        record = self.record
        recipe, data = record.recipe, record.data
        criterion = row.criterion
        method = PruningMethod.of(recipe, criterion)
        model = record.dense()
        weights = find_prunable(model, recipe.exclude, recipe.include)
        given = GivenZeros({name: weight != 0 for name, weight in weights.items()})
        zeros = given.kept_by(recipe)
        draw = "draw", number, planned.number
        costs = Costs(recipe, data.sizes, len(data.classes), layers=len(weights))
        stages, stage_cost = costs.pruning(criterion, planned)
        # Another draw keeps to the number of weights that a budget came to.
        prune_(
            model,
            zeros.build_masks(weights),
            row.density if recipe.targets.are_budgets else planned.density,
            method,
            collect_evidence(model, recipe, data, method, *draw),
            generator=generator(recipe.seed, "sparsifier", *draw),
        )
        losses = measure_training_losses(model, data, recipe.seed)
        record.advance(stages * stage_cost + len(losses))
        return losses


def plan_repeatable(recipe: Recipe) -> dict[int, PlannedRound]:
    """The rounds to a target that start from the dense network, by number."""
    return _select_repeatable(recipe, plan_rounds(recipe))


def _select_repeatable(
    recipe: Recipe, planned_rounds: Sequence[PlannedRound]
) -> dict[int, PlannedRound]:
    if recipe.when == "before_training":
        return {}
    return {
        planned.number: planned
        for planned in planned_rounds
        if planned.restart and planned.target is not None
    }


def count_repetition_units(size: JobSize, methods: Sequence[Method], draws: int) -> int:
    """Count the work of repeating the prunings of these criteria, in forward passes."""
    costs = Costs(size.recipe, size.images, size.classes, layers=size.layers)
    repeatable = _select_repeatable(size.recipe, plan_costliest_rounds(size.recipe))
    units = 0
    for method in methods:
        for planned in repeatable.values():
            stages, stage_cost = costs.pruning(method, planned)
            units += stages * stage_cost + count_loss_images(size.images["fit"])
    return max(0, draws - 1) * units
