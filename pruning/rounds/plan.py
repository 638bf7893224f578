"""The rounds of a job, and what they will cost, before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass

from pruning.errors import ParameterError
from pruning.schedules import schedules
from pruning.schemas.recipe import Recipe

READ_UNRETRAINED = frozenset({"approximation"})
"""Evaluations of the networks right after pruning."""


@dataclass(frozen=True, kw_only=True)
class PlannedRound:
    """One prune-and-retrain round."""

    number: int
    start: float
    """Density before."""
    density: float
    sparsity: float
    target: float | None
    """The requested sparsity when the round ends at a target."""
    restart: bool
    """The round starts from the dense network."""
    epochs: tuple[int, int] | None
    """First epoch and end of its retraining within the schedule; None where it is not retrained."""
    trained_epochs: int
    """Epochs of retraining that its weights have had since they were given or rewound, this round's
    included.
    """

    @property
    def retrained(self) -> bool:
        """Whether retraining follows."""
        return self.epochs is not None


def plan_rounds(recipe: Recipe) -> list[PlannedRound]:
    """The rounds of one criterion: the schedule's stretch to every target, densest first."""
    schedule = schedules.create(recipe.schedule.name, recipe.schedule.params)
    planned: list[PlannedRound] = []
    start = 1.0
    for sparsity in recipe.targets.sparsity:
        target = 1.0 - sparsity
        if recipe.independent:
            start = 1.0
        densities = list(schedule.densities(start, target))
        assert densities[-1] == target
        for index, density in enumerate(densities):
            final = density == target
            restart = not planned or (recipe.independent and index == 0)
            epochs = _epochs(recipe, index, len(densities))
            afresh = (
                restart
                or recipe.when == "before_training"
                or recipe.retrain.mode == "weight_rewind"
            )
            before = 0 if afresh else planned[-1].trained_epochs
            planned.append(
                PlannedRound(
                    number=len(planned) + 1,
                    start=start,
                    density=density,
                    sparsity=sparsity if final else 1.0 - density,
                    target=sparsity if final else None,
                    restart=restart,
                    epochs=epochs,
                    trained_epochs=before + (epochs[1] - epochs[0] if epochs else 0),
                )
            )
            start = density
    return planned


def keeps_unretrained(recipe: Recipe, planned: PlannedRound) -> bool:
    """Whether a round keeps the weights right after pruning beside the retrained ones: of targets,
    where they are read.

    Before training there are none: what is pruned then is the initialisation.
    """
    read = recipe.evaluations is None or any(
        method.name in READ_UNRETRAINED for method in recipe.evaluations
    )
    return (
        read
        and planned.retrained
        and planned.target is not None
        and recipe.when == "after_training"
    )


def find_training_epochs(recipe: Recipe) -> tuple[int, int] | None:
    """First epoch and end of one whole retraining: the dense control's, and a round's unless the
    mode is `gradual`.
    """
    train, retrain = recipe.train, recipe.retrain
    if recipe.when == "before_training":
        assert train is not None
        return 0, train.epochs
    if retrain.mode == "none":
        return None
    if train is not None and retrain.mode in ("weight_rewind", "lr_rewind"):
        return train.rewind_epoch, train.epochs
    return retrain.rewind_epoch, retrain.epochs


def _epochs(recipe: Recipe, index: int, rounds: int) -> tuple[int, int] | None:
    """Those of round `index` of the `plan_rounds` to a target."""
    if recipe.when == "before_training" and index < rounds - 1:
        return None
    if recipe.when == "before_training" or recipe.retrain.mode != "gradual":
        return find_training_epochs(recipe)
    pruning = recipe.retrain.pruning_epochs
    if rounds > pruning:
        raise ParameterError(
            f"{rounds} rounds do not fit into {pruning} epochs of pruning: each needs one at least",
            pointer=f"/retrain/{'epochs' if recipe.retrain.prune_epochs is None else 'prune_epochs'}",
        )
    return index * pruning // rounds, (
        index + 1
    ) * pruning // rounds if index < rounds - 1 else recipe.retrain.epochs
