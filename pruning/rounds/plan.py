"""The rounds of a job, and what they will cost, before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pruning.errors import ParameterError
from pruning.rounds.error_search import count_most_tried, space_steps
from pruning.schedules import schedules
from pruning.schemas.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class PlannedRound:
    """A prune-and-retrain round."""

    number: int
    start: float
    """The density before the round; in a job with budgets, here and below, the share of what the
    dense network has of the quantity that the budgets are told in.
    """
    density: float
    sparsity: float
    target: float | None
    """The requested sparsity when the round ends at a target; of a budget the share that goes; of
    a search the sparsity of a step.
    """
    restart: bool
    """The round starts from the dense network."""
    epochs: tuple[int, int] | None
    """First epoch and end of its retraining within the schedule; None where it is not retrained."""
    trainings: tuple[tuple[int, int], ...]
    """The epochs of each retraining that its weights have had since they were given or rewound,
    with this round's.
    """

    @property
    def retrained(self) -> bool:
        """Whether retraining follows the pruning."""
        return self.epochs is not None

    @property
    def trained_epochs(self) -> int:
        """The epochs of all its trainings."""
        return sum(stop - start for start, stop in self.trainings)


def plan_rounds(recipe: Recipe, given: float = 1.0) -> list[PlannedRound]:
    """The rounds of one criterion: the schedule's stretch to every target, densest first.

    `given` is the density of the network as it comes (`pruning.rounds.given_zeros`). Budgets are
    told beside the dense network, with none of its weights at zero. For limits on the error they
    are those to every step of the search, of which few are run.
    """
    targets = recipe.targets
    if targets.are_budgets:
        given = 1.0
    if targets.are_searched:
        removals = tuple(1.0 - density for density in space_steps(given))
    else:
        removals = targets.removals
    schedule = schedules.create(recipe.schedule.name, recipe.schedule.params)
    planned: list[PlannedRound] = []
    start = given
    for sparsity in removals:
        target = 1.0 - sparsity
        if recipe.restarts:
            start = given
        densities = [start]  # nothing is removed where the network as it comes is as sparse
        if start == 1.0 or target < start:
            densities = list(schedule.densities(start, target))
            assert densities[-1] == target
        for index, density in enumerate(densities):
            final = index == len(densities) - 1
            restart = not planned or (recipe.restarts and index == 0)
            epochs = _find_round_epochs(recipe, index, len(densities))
            trainings = (epochs,) if epochs else ()
            rewound = recipe.when == "before_training" or recipe.retrain.mode == "weight_rewind"
            if not restart and not rewound:
                trainings = (*planned[-1].trainings, *trainings)
            planned.append(
                PlannedRound(
                    number=len(planned) + 1,
                    start=start,
                    density=density,
                    sparsity=sparsity if final else 1.0 - density,
                    target=sparsity if final else None,
                    restart=restart,
                    epochs=epochs,
                    trainings=trainings,
                )
            )
            start = density
    return planned


def plan_costliest_rounds(recipe: Recipe, given: float = 1.0) -> list[PlannedRound]:
    """The rounds that a criterion has at the most: of a search those to its sparsest steps, as many
    as it may try.
    """
    planned = plan_rounds(recipe, given)
    if not recipe.targets.are_searched:
        return planned
    steps = split_stretches(planned)
    most = count_most_tried(len(recipe.targets.values))
    return [planned_round for stretch in steps[-most:] for planned_round in stretch]


def split_stretches(planned_rounds: Sequence[PlannedRound]) -> list[list[PlannedRound]]:
    """The rounds to each target."""
    stretches: list[list[PlannedRound]] = [[]]
    for planned in planned_rounds:
        stretches[-1].append(planned)
        if planned.target is not None:
            stretches.append([])
    return stretches[:-1]


def keeps_unretrained(recipe: Recipe, planned: PlannedRound, *, read: bool) -> bool:
    """Whether a round keeps the weights right after pruning beside the retrained ones, as rounds to
    targets do where an evaluation reads them (`read`).

    A job that prunes before training keeps none: it prunes the initialisation.
    """
    if recipe.when == "before_training" or not planned.retrained:
        return False
    return read and planned.target is not None


def find_training_epochs(recipe: Recipe) -> tuple[int, int] | None:
    """First epoch and end of one whole retraining; None where there is none.

    Every round has these epochs unless the mode is `gradual`.
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


def _find_round_epochs(recipe: Recipe, index: int, rounds: int) -> tuple[int, int] | None:
    """First epoch and end of the retraining of round `index` of the `rounds` to a target."""
    if recipe.when == "before_training" and index < rounds - 1:
        return None
    if recipe.when == "before_training" or recipe.retrain.mode != "gradual":
        return find_training_epochs(recipe)
    # A gradual retraining is one run: the rounds share its epochs of pruning, and the last one
    # trains to the end.
    pruning_epochs = recipe.retrain.pruning_epochs
    if rounds > pruning_epochs:
        field = "epochs" if recipe.retrain.prune_epochs is None else "prune_epochs"
        raise ParameterError(
            f"{rounds} rounds do not fit into {pruning_epochs} epochs of pruning: each needs at "
            "least one",
            pointer=f"/retrain/{field}",
        )
    start = index * pruning_epochs // rounds
    if index == rounds - 1:
        return start, recipe.retrain.epochs
    return start, (index + 1) * pruning_epochs // rounds
