"""What the rounds of a job cost, estimated before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pruning.data.tensors import count_validation
from pruning.errors import BudgetError
from pruning.evidence.calibration import BATCH, choose_calibration, count_loss_images, count_units
from pruning.evidence.criterion import EstimatesMemory
from pruning.masks import count_to_keep
from pruning.rounds.method import PruningMethod, refuse_repeated
from pruning.rounds.plan import PlannedRound, find_training_epochs, plan_rounds
from pruning.schemas.criterion_labels import label_criteria
from pruning.schemas.recipe import Method, Recipe
from pruning.training.loop import count_steps_per_epoch

MAX_ROUNDS = 2000
"""Every round keeps a network until the job ends."""
TRAIN_COST = 3
"""A training image costs about three forward passes: one forward, two for the backward pass."""
TEACHER_COST = 1
"""And one of the teacher where the network is distilled."""


@dataclass(frozen=True)
class Costs:
    """Work in units: one image forward."""

    recipe: Recipe
    images: Mapping[str, int]
    """By split: `fit`, `val`, `test`."""
    classes: int

    @property
    def measuring(self) -> int:
        """One network on test and val."""
        return self.images["test"] + self.images["val"]

    @property
    def dense(self) -> int:
        """Training the dense network (if the recipe does) and measuring it."""
        epochs = self.recipe.train.epochs if self.recipe.train is not None else 0
        return TRAIN_COST * epochs * self.images["fit"] + self.measuring

    def retraining(self, epochs: int) -> int:
        """So many epochs, and measuring the network."""
        each = TRAIN_COST + (TEACHER_COST if self.recipe.retrain.distillation is not None else 0)
        return each * epochs * self.images["fit"] + self.measuring

    @property
    def retrain_epochs(self) -> int:
        """Epochs of one whole retraining."""
        start, stop = find_training_epochs(self.recipe) or (0, 0)
        return stop - start

    @property
    def control(self) -> int:
        """The dense control."""
        if self.recipe.when == "before_training" or self.recipe.retrain.mode == "none":
            return 0
        return self.retraining(self.retrain_epochs)

    def pruning(self, method: Method, planned: PlannedRound) -> tuple[int, int]:
        """Stages of one round's pruning, and the work of each."""
        seams = PruningMethod.of(self.recipe, method)
        each = count_units(seams.criterion, self.classes, self.images["fit"])
        return len(seams.stages(planned.start, planned.density)), each

    def scoring_memory(
        self, method: Method, shapes: Collection[Sequence[int]], parameters: int, activations: int
    ) -> int:
        """Bytes in use while a criterion scores weights of these shapes, if it says what it holds;
        see `estimate_costs`.
        """
        criterion = PruningMethod.of(self.recipe, method).criterion
        if not isinstance(criterion, EstimatesMemory):
            return 0
        images = min(choose_calibration(criterion, self.classes).images, self.images["fit"])
        return 4 * (parameters + 2 * activations * min(BATCH, images)) + criterion.memory(
            shapes, images
        )

    def round(self, method: Method, planned: PlannedRound) -> int:
        """One round."""
        stages, each = self.pruning(method, planned)
        trained = self.retraining(planned.epochs[1] - planned.epochs[0]) if planned.epochs else 0
        return stages * each + 2 * count_loss_images(self.images["fit"]) + self.measuring + trained

    @property
    def total(self) -> int:
        """The whole job."""
        planned = plan_rounds(self.recipe)
        return (
            self.dense
            + self.control
            + sum(self.round(method, one) for method in self.recipe.criteria for one in planned)
        )


def count_split_images(recipe: Recipe, counts: Mapping[str, int]) -> dict[str, int]:
    """Images by split after limits and the validation split, from the dataset's counts."""
    train, test = recipe.limit.of("train", counts["train"]), recipe.limit.of("test", counts["test"])
    val = counts.get("val", 0)
    if not val:
        val = count_validation(train)
        train -= val
    return {"fit": train, "val": val, "test": test}


def estimate_costs(
    recipe: Recipe,
    counts: Mapping[str, int],
    *,
    prunable: Collection[Sequence[int]],
    forward_flops: int,
    parameters: int,
    activations: int,
    classes: int,
    evaluations: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """What a job will do: rounds, optimiser steps, FLOPs, memory in bytes, units of progress.

    `prunable` are the shapes of the prunable weights, `forward_flops` and `activations` (values
    kept for the backward pass) those of one image, `evaluations` the units of what follows, by
    name. Raises `BudgetError` when a target cannot be reached or a round would be retrained
    although it removes nothing, `ParameterError` when the rounds of a gradual run do not fit into
    its epochs.
    """
    refuse_repeated(recipe)
    images = count_split_images(recipe, counts)
    costs = Costs(recipe, images, classes)
    planned = plan_rounds(recipe)
    if len(planned) * len(recipe.criteria) > MAX_ROUNDS:
        raise BudgetError(
            f"{len(planned) * len(recipe.criteria)} rounds; at most {MAX_ROUNDS} in one job",
            pointer="/schedule",
        )
    _check_counts(recipe, planned, sum(math.prod(shape) for shape in prunable))
    replayed = recipe.when == "before_training" or recipe.retrain.mode in (
        "weight_rewind",
        "lr_rewind",
    )
    training = recipe.train if recipe.train is not None and replayed else recipe.retrain
    epochs = sum(one.epochs[1] - one.epochs[0] for one in planned if one.epochs) * len(
        recipe.criteria
    )
    epochs += costs.retrain_epochs if costs.control else 0
    batches = [count_steps_per_epoch(images["fit"], training.batch_size) * epochs]
    batch = training.batch_size if epochs else 128
    if recipe.train is not None:
        batches.append(
            count_steps_per_epoch(images["fit"], recipe.train.batch_size) * recipe.train.epochs
        )
        batch = max(batch, recipe.train.batch_size)
    work = costs.total + sum((evaluations or {}).values())
    copies = 5 if recipe.retrain.distillation else 4
    training_memory = 4 * (
        copies * parameters + 2 * activations * min(batch, max(images["fit"], 1))
    )
    scoring_memory = max(
        costs.scoring_memory(method, prunable, parameters, activations)
        for method in recipe.criteria
    )
    return {
        "rounds": len(planned) * len(recipe.criteria),
        "checkpoints": len(recipe.targets.sparsity) * len(recipe.criteria),
        "steps": sum(batches),
        "units": work,
        "evaluations": dict(evaluations or {}),
        "flops": work * forward_flops,
        "memory_bytes": max(training_memory, scoring_memory),
        "images": images,
        "decoded_images": sum(counts.values()),
    }


def _check_counts(recipe: Recipe, planned: Sequence[PlannedRound], prunable: int) -> None:
    """What rounding to whole weights makes of the rounds."""
    kept, reached = prunable, True
    for one in planned:
        before, kept = prunable if one.restart else kept, count_to_keep(prunable, one.density)
        if kept == prunable and one.target is not None:
            raise BudgetError(
                f"sparsity {one.target:g} removes none of {prunable} weights",
                pointer="/targets/sparsity",
            )
        if kept == before and not may_be_empty(recipe):
            raise build_empty_error(one, kept, prunable, after_target=reached)
        reached = one.target is not None


def may_be_empty(recipe: Recipe) -> bool:
    """Whether rounds may remove nothing: those that cost no retraining of their own."""
    return recipe.when == "before_training" or recipe.retrain.mode in ("none", "gradual")


def build_empty_error(
    one: PlannedRound, kept: int, total: int, *, after_target: bool
) -> BudgetError:
    """The refusal of a round that removes nothing; `after_target`: it is the first of a stretch to
    a target.
    """
    return BudgetError(
        f"round {one.number} at sparsity {one.sparsity:g} would be retrained but removes nothing: "
        f"{kept} of {total} weights remain before it and after",
        pointer="/targets/sparsity" if after_target and one.target is not None else "/schedule",
    )


def list_warnings(recipe: Recipe) -> list[str]:
    """What the job will warn of, as far as the recipe tells; each once, the criterion's label in
    front.

    >>> from pruning.schemas.recipe import Targets
    >>> recipe = Recipe(
    ...     criterion={"name": "obd", "params": {"pi": 1}}, targets=Targets(sparsity=(0.9,))
    ... )
    >>> [caution[:53] for caution in list_warnings(recipe)]
    ['obd: a single stage removes more than 50% of the weig']
    """
    found = [
        f"{label}: {caution}"
        for label, method in zip(label_criteria(recipe), recipe.criteria, strict=True)
        for one in plan_rounds(recipe)
        for caution in PruningMethod.of(recipe, method).cautions(
            one.start, one.density, recipe.retrain.mode
        )
    ]
    return list(dict.fromkeys(found))
