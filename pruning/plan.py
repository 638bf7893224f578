"""The rounds of a job, and what they will cost, before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pruning.data.tensors import val_size
from pruning.errors import BudgetError
from pruning.masks import keep_count
from pruning.schedules import schedules
from pruning.schemas.recipe import Recipe
from pruning.training import steps_per_epoch

MAX_ROUNDS = 2000
"""Every round keeps a network until the job ends."""
TRAIN_COST = 3
"""A training image costs about three forward passes: one forward, two for the backward pass."""


@dataclass(frozen=True)
class PlannedRound:
    """One prune-and-retrain round."""

    number: int
    density: float
    sparsity: float
    target: float | None
    """The requested sparsity when the round ends at a target."""
    restart: bool
    """The round starts from the dense network."""
    retrained: bool
    retrainings: int
    """How many retrainings its network has had, this round's included."""


def rounds(recipe: Recipe) -> list[PlannedRound]:
    """The rounds of one criterion: the schedule's stretch to every target, densest first."""
    schedule = schedules.create(recipe.schedule.name, recipe.schedule.params)
    planned: list[PlannedRound] = []
    start = 1.0
    for sparsity in recipe.targets.sparsity:
        target = 1.0 - sparsity
        restart = recipe.independent or not planned
        if recipe.independent:
            start = 1.0
        densities = list(schedule.densities(start, target))
        assert densities[-1] == target
        for density in densities:
            final = density == target
            before = 0 if restart else planned[-1].retrainings
            retrained = final if recipe.when == "before_training" else recipe.retrain.mode != "none"
            planned.append(PlannedRound(len(planned) + 1, density, sparsity if final else 1.0 - density,
                                        sparsity if final else None, restart, retrained, before + retrained))
            restart = False
        start = target
    return planned


@dataclass(frozen=True)
class Costs:
    """Work in units: one image forward."""

    images: Mapping[str, int]
    train_epochs: int
    retrain_epochs: int

    @staticmethod
    def of(recipe: Recipe, images: Mapping[str, int]) -> Costs:
        """Costs with `images` by split: `fit`, `val`, `test`."""
        trained = recipe.train.epochs if recipe.train is not None else 0
        if recipe.when == "before_training":
            return Costs(images, trained, trained)
        if recipe.retrain.mode == "none":
            return Costs(images, trained, 0)
        if recipe.train is not None and recipe.retrain.mode in ("weight_rewind", "lr_rewind"):
            return Costs(images, trained, trained - recipe.train.rewind_epoch)
        return Costs(images, trained, recipe.retrain.epochs - recipe.retrain.rewind_epoch)

    @property
    def measuring(self) -> int:
        """One network on test and val."""
        return self.images["test"] + self.images["val"]

    @property
    def dense(self) -> int:
        """Training the dense network (if the recipe does) and measuring it."""
        return TRAIN_COST * self.train_epochs * self.images["fit"] + self.measuring

    @property
    def retraining(self) -> int:
        """One retraining and its measurement."""
        return TRAIN_COST * self.retrain_epochs * self.images["fit"] + self.measuring

    def control(self, recipe: Recipe) -> int:
        """The dense control."""
        return 0 if recipe.when == "before_training" or recipe.retrain.mode == "none" else self.retraining

    def round(self, planned: PlannedRound) -> int:
        """One round."""
        return self.measuring + (self.retraining if planned.retrained else 0)

    def total(self, recipe: Recipe) -> int:
        """The whole job."""
        each = sum(self.round(planned) for planned in rounds(recipe))
        return self.dense + self.control(recipe) + each * len(recipe.criteria)


def split_sizes(recipe: Recipe, counts: Mapping[str, int]) -> dict[str, int]:
    """Images by split after limits and the validation split, from the dataset's counts."""
    train = min(counts["train"], recipe.limit.train or counts["train"])
    test = min(counts["test"], recipe.limit.test or counts["test"])
    val = counts.get("val", 0)
    if not val:
        val = val_size(train)
        train -= val
    return {"fit": train, "val": val, "test": test}


def estimate(recipe: Recipe, counts: Mapping[str, int], *, prunable: int, forward_flops: int, parameters: int,
             activations: int) -> dict[str, Any]:
    """What a job will do: rounds, optimiser steps, FLOPs, memory in bytes, units of progress.

    `forward_flops` and `activations` (values kept for the backward pass) are those of one image. Raises `BudgetError`
    when a target cannot be reached.
    """
    images = split_sizes(recipe, counts)
    costs = Costs.of(recipe, images)
    planned = rounds(recipe)
    if len(planned) * len(recipe.criteria) > MAX_ROUNDS:
        raise BudgetError(f"{len(planned) * len(recipe.criteria)} rounds; at most {MAX_ROUNDS} in one job",
                          pointer="/schedule")
    for one in planned:
        if keep_count(prunable, one.density) == prunable and one.target is not None:
            raise BudgetError(f"sparsity {one.target:g} removes none of {prunable} weights", pointer="/targets/sparsity")
    retrainings = sum(one.retrained for one in planned) * len(recipe.criteria) + (costs.control(recipe) > 0)
    training = recipe.train if recipe.when == "before_training" and recipe.train else recipe.retrain
    batches = [steps_per_epoch(images["fit"], training.batch_size) * costs.retrain_epochs * retrainings]
    batch = training.batch_size if retrainings else 128
    if recipe.train is not None:
        batches.append(steps_per_epoch(images["fit"], recipe.train.batch_size) * costs.train_epochs)
        batch = max(batch, recipe.train.batch_size)
    units = costs.total(recipe)
    return {
        "rounds": len(planned) * len(recipe.criteria),
        "checkpoints": len(recipe.targets.sparsity) * len(recipe.criteria),
        "steps": sum(batches),
        "units": units,
        "flops": units * forward_flops,
        "memory_bytes": 4 * (4 * parameters + 2 * activations * min(batch, max(images["fit"], 1))),
        "images": images,
        "decoded_images": sum(counts.values()),
    }
