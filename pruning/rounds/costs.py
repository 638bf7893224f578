"""The costs of the rounds of a job, estimated before anything is computed."""

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
from pruning.measurement.measure import EVAL_BATCH
from pruning.rounds.control_plan import PlannedControl, plan_controls
from pruning.rounds.error_search import STEPS, count_most_tried
from pruning.rounds.loss_curves import count_curve_units
from pruning.rounds.method import PruningMethod, refuse_repeated
from pruning.rounds.plan import PlannedRound, plan_costliest_rounds, plan_rounds
from pruning.schemas.criterion_labels import label_criteria
from pruning.schemas.recipe import Method, Recipe
from pruning.schemas.training import Training
from pruning.training.batchnorm import count_reestimation_images
from pruning.training.loop import count_steps_per_epoch

MAX_ROUNDS = 2000
"""The most rounds of one job: each keeps a network until the job ends."""
TRAIN_COST = 3
"""A training image costs about three forward passes: one forward, two for the backward pass."""
TEACHER_COST = 1
"""A distilled training image costs one forward pass of the teacher besides."""


@dataclass(frozen=True)
class Costs:
    """The work of a job, in forward passes of one image."""

    recipe: Recipe
    images: Mapping[str, int]
    """The number of images by split: `fit`, `val`, `test`."""
    classes: int
    given: float = 1.0
    """The density of the network as it comes."""
    reads_losses: bool = True
    """Whether an evaluation reads the losses on training images around each pruning."""
    has_batchnorm: bool = False
    """Whether the network has a BatchNorm, which is estimated again where the recipe says so."""
    layers: int = 1
    """The number of prunable weights, each of a layer."""

    @property
    def measuring(self) -> int:
        """The work of measuring one network on test and val."""
        return self.images["test"] + self.images["val"]

    @property
    def dense(self) -> int:
        """The work of training the dense network (if the recipe does) and measuring it."""
        train = self.recipe.train
        work = 0 if train is None else self._training(train, train.epochs, TRAIN_COST)
        return work + self.measuring

    def retraining(self, epochs: int) -> int:
        """The work of retraining for a number of epochs, and of measuring the network."""
        image_cost = TRAIN_COST
        if self.recipe.retrain.distillation is not None:
            image_cost += TEACHER_COST
        return self._training(self.recipe.retraining, epochs, image_cost) + self.measuring

    def _training(self, training: Training, epochs: int, image_cost: int) -> int:
        """The work of some epochs of a schedule, with the search for the best of them."""
        looked_at = self.images["val"] if training.keep == "best" else 0
        return epochs * (image_cost * self.images["fit"] + looked_at)

    @property
    def control(self) -> int:
        """The work of all dense controls."""
        return sum(self.one_control(planned) for planned in plan_controls(self.recipe, self.given))

    def one_control(self, planned: PlannedControl) -> int:
        """The work of training a dense control, and of measuring it where it is measured."""
        if planned.epochs is None:
            return 0
        work = self.retraining(planned.epochs[1] - planned.epochs[0])
        return work if planned.measured else work - self.measuring

    def pruning(self, method: Method, planned: PlannedRound) -> tuple[int, int]:
        """The number of stages of one round's pruning, and the work of each."""
        if planned.density == planned.start:
            return 0, 0
        pruning_method = PruningMethod.of(self.recipe, method)
        stages = pruning_method.stages(planned.start, planned.density)
        stage_cost = count_units(pruning_method.criterion, self.classes, self.images["fit"])
        stage_cost += count_curve_units(pruning_method.allocation, self.layers, self.images["fit"])
        return len(stages), stage_cost

    def scoring_memory(
        self, method: Method, shapes: Collection[Sequence[int]], parameters: int, activations: int
    ) -> int:
        """Bytes in use while a criterion scores weights of these shapes; 0 for a criterion that
        does not say what it holds. For the arguments see `estimate_costs`.
        """
        criterion = PruningMethod.of(self.recipe, method).criterion
        if not isinstance(criterion, EstimatesMemory):
            return 0
        images = min(choose_calibration(criterion, self.classes).images, self.images["fit"])
        values = parameters + 2 * activations * min(BATCH, images)
        return 4 * values + criterion.memory(shapes, images)

    def round(self, method: Method, planned: PlannedRound) -> int:
        """The work of one round."""
        stages, stage_cost = self.pruning(method, planned)
        trained = self.retraining(planned.epochs[1] - planned.epochs[0]) if planned.epochs else 0
        before = self.losses + self.batchnorm + self.measuring
        return stages * stage_cost + before + trained

    @property
    def losses(self) -> int:
        """The work of the losses on training images before and after a pruning."""
        return 2 * count_loss_images(self.images["fit"]) if self.reads_losses else 0

    @property
    def batchnorm(self) -> int:
        """The work of estimating BatchNorm again after a pruning."""
        again = self.recipe.batchnorm == "reestimate" and self.recipe.when == "after_training"
        return count_reestimation_images(self.images["fit"]) if self.has_batchnorm and again else 0

    @property
    def total(self) -> int:
        """The work of the whole job, without its evaluations."""
        return sum(self.parts.values())

    @property
    def parts(self) -> dict[str, int]:
        """The work of the whole job by what it is for: `training` (of the dense network, controls
        and rounds), `scoring`, `measuring` on test and validation images, `batchnorm`, and `losses`
        on training images.
        """
        planned_rounds = plan_costliest_rounds(self.recipe, self.given)
        rounds = [
            (method, planned) for method in self.recipe.criteria for planned in planned_rounds
        ]
        scoring = [math.prod(self.pruning(method, planned)) for method, planned in rounds]
        whole = self.dense + self.control
        whole += sum(self.round(method, planned) for method, planned in rounds)
        parts = {
            "scoring": sum(scoring),
            "measuring": self.measuring * self._count_measurements(planned_rounds),
            "batchnorm": self.batchnorm * len(rounds),
            "losses": self.losses * len(rounds),
        }
        return {"training": whole - sum(parts.values())} | parts

    def _count_measurements(self, planned_rounds: Sequence[PlannedRound]) -> int:
        """The networks that are measured: the dense one, controls, and those of the rounds."""
        controls = [
            planned
            for planned in plan_controls(self.recipe, self.given)
            if planned.epochs is not None and planned.measured
        ]
        by_round = sum(2 if planned.epochs else 1 for planned in planned_rounds)
        return 1 + len(controls) + by_round * len(self.recipe.criteria)


def count_split_images(recipe: Recipe, counts: Mapping[str, int]) -> dict[str, int]:
    """Images by split after limits and the validation split, from the dataset's counts."""
    train = recipe.limit.of("train", counts["train"])
    test = recipe.limit.of("test", counts["test"])
    val = counts.get("val", 0)
    if not val:
        val = count_validation(train)
        train -= val
    return {"fit": train, "val": val, "test": test}


def estimate_costs(  # noqa: PLR0913 (what is counted is by keyword)
    recipe: Recipe,
    counts: Mapping[str, int],
    *,
    prunable: Collection[Sequence[int]],
    forward_flops: int,
    parameters: int,
    activations: int,
    classes: int,
    evaluations: Mapping[str, int] | None = None,
    zeros: int = 0,
    reads_losses: bool = True,
    has_batchnorm: bool = False,
) -> dict[str, Any]:
    """The costs of a job: rounds, optimiser steps, FLOPs, memory in bytes, units of progress.

    `prunable` are the shapes of the prunable weights, `forward_flops` and `activations` (values
    kept for the backward pass) are those of one image, `evaluations` are the units of the
    evaluations that follow, by name, `zeros` are the prunable weights that count as pruned as the
    network comes, `reads_losses` says whether an evaluation reads the losses on training images
    around each pruning, `has_batchnorm` whether the network has one. Raises `BudgetError` when a
    target cannot be reached or a round would be retrained although it removes nothing,
    `ParameterError` when the rounds of a gradual run do not fit into its epochs.
    """
    refuse_repeated(recipe)
    images = count_split_images(recipe, counts)
    total = sum(math.prod(shape) for shape in prunable)
    costs = Costs(
        recipe,
        images,
        classes,
        1.0 - zeros / total,
        reads_losses=reads_losses,
        has_batchnorm=has_batchnorm,
        layers=len(prunable),
    )
    planned_rounds = plan_costliest_rounds(recipe, costs.given)
    rounds = len(planned_rounds) * len(recipe.criteria)
    if rounds > MAX_ROUNDS:
        raise BudgetError(f"{rounds} rounds; at most {MAX_ROUNDS} in one job", pointer="/schedule")
    if recipe.targets.quantity == "sparsity":
        _check_counts(recipe, planned_rounds, total, zeros)
    steps, largest_batch = _count_steps(costs, planned_rounds)
    evaluation_units = dict(evaluations or {})
    work = costs.total + sum(evaluation_units.values())
    # Weights, gradients and two states of the optimiser; with distillation also the teacher.
    copies = 5 if recipe.retrain.distillation else 4
    batch_images = min(largest_batch, max(images["fit"], 1))
    training_memory = 4 * (copies * parameters + 2 * activations * batch_images)
    scoring_memory = max(
        (
            costs.scoring_memory(method, prunable, parameters, activations)
            for method in recipe.criteria
            if recipe.prunes
        ),
        default=0,
    )
    return {
        "rounds": rounds,
        "checkpoints": len(recipe.targets.values) * len(recipe.criteria),
        "steps": steps,
        "units": work,
        "parts": costs.parts | {"evaluations": sum(evaluation_units.values())},
        "evaluations": evaluation_units,
        "flops": work * forward_flops,
        "memory_bytes": max(training_memory, scoring_memory),
        "images": images,
        "decoded_images": sum(counts.values()),
    }


def _count_steps(costs: Costs, planned_rounds: Sequence[PlannedRound]) -> tuple[int, int]:
    """The optimiser steps of all trainings of a job, and the largest batch of images."""
    recipe, fit = costs.recipe, costs.images["fit"]
    steps, largest_batch = count_retraining_steps(costs, planned_rounds)
    if recipe.train is not None:
        steps += count_steps_per_epoch(fit, recipe.train.batch_size) * recipe.train.epochs
        largest_batch = max(largest_batch, recipe.train.batch_size)
    return steps, largest_batch


def count_retraining_steps(costs: Costs, planned_rounds: Sequence[PlannedRound]) -> tuple[int, int]:
    """The optimiser steps of the retrainings of a job, and the largest batch of images."""
    recipe, fit = costs.recipe, costs.images["fit"]
    replayed = recipe.when == "before_training" or recipe.retrain.mode in (
        "weight_rewind",
        "lr_rewind",
    )
    training = recipe.train if recipe.train is not None and replayed else recipe.retrain
    epochs_by_round = [planned.epochs for planned in planned_rounds if planned.epochs]
    epochs = sum(stop - start for start, stop in epochs_by_round) * len(recipe.criteria)
    planned_controls = plan_controls(recipe, costs.given)
    controls = [control.epochs for control in planned_controls if control.epochs]
    epochs += sum(stop - start for start, stop in controls)
    steps = count_steps_per_epoch(fit, training.batch_size) * epochs
    return steps, training.batch_size if epochs else EVAL_BATCH


def _check_counts(
    recipe: Recipe, planned_rounds: Sequence[PlannedRound], prunable: int, zeros: int
) -> None:
    """Raise `BudgetError` for a round that removes nothing, once densities are rounded to whole
    weights.
    """
    given = kept = prunable - zeros
    after_target = True
    for planned in planned_rounds:
        before = given if planned.restart else kept
        if planned.density == planned.start:
            continue
        kept = count_to_keep(prunable, planned.density)
        if kept == prunable and planned.target is not None:
            raise BudgetError(
                f"sparsity {planned.target:g} removes none of {prunable} weights",
                pointer="/targets/sparsity",
            )
        if kept == before and not may_be_empty(recipe):
            raise build_empty_error(planned, kept, prunable, after_target=after_target)
        after_target = planned.target is not None


def may_be_empty(recipe: Recipe) -> bool:
    """Whether rounds may remove nothing, as where they cost no retraining of their own."""
    return recipe.when == "before_training" or recipe.retrain.mode in ("none", "gradual")


def build_empty_error(
    planned: PlannedRound, kept: int, total: int, *, after_target: bool
) -> BudgetError:
    """The refusal of a round that removes nothing; `after_target` says that it is the first round
    on the way to a target.
    """
    at_fault = "/targets/sparsity" if after_target and planned.target is not None else "/schedule"
    return BudgetError(
        f"round {planned.number} at sparsity {planned.sparsity:g} would be retrained but removes "
        f"nothing: {kept} of {total} weights remain before it and after",
        pointer=at_fault,
    )


def list_warnings(recipe: Recipe) -> list[str]:
    """The warnings of a job that follow from its recipe alone, each once, the criterion's label in
    front.

    >>> from pruning.schemas.recipe import Targets
    >>> recipe = Recipe(
    ...     criterion={"name": "obd", "params": {"pi": 1}}, targets=Targets(sparsity=(0.9,))
    ... )
    >>> [warning[:54] for warning in list_warnings(recipe)]
    ['obd: a single stage removes more than 50 % of the weig']
    """
    warnings: list[str] = []
    if not recipe.prunes:
        return warnings
    if recipe.targets.are_searched:
        most = count_most_tried(len(recipe.targets.values))
        warnings.append(
            f"the search tries at most {most} of {STEPS} networks for each criterion, which the "
            "estimate counts; it often ends with fewer"
        )
    for label, method in zip(label_criteria(recipe), recipe.criteria, strict=True):
        pruning_method = PruningMethod.of(recipe, method)
        for planned in plan_rounds(recipe):
            densities = planned.start, planned.density
            if recipe.targets.are_budgets:
                densities = 1.0, 1.0  # how many weights go is known when they are scored
            cautions = pruning_method.list_cautions(*densities, recipe.retrain.mode)
            warnings += [f"{label}: {caution}" for caution in cautions]
    return list(dict.fromkeys(warnings))
