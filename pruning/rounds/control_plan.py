"""The dense controls of a job: which retrainings of the dense network its rounds are compared with,
before anything is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pruning.rounds.plan import PlannedRound, find_training_epochs, plan_rounds
from pruning.schemas.recipe import Recipe

Trainings = tuple[tuple[int, int], ...]
"""First epoch and end of each retraining, in order."""


@dataclass(frozen=True, kw_only=True)
class PlannedControl:
    """A dense control: the dense network after the retrainings that some rounds have had."""

    stage: str
    """The name of the stage that trains it."""
    before: str | None
    """The stage of the control that it goes on from; None where it starts from the dense
    network.
    """
    trainings: Trainings
    """The retrainings it has had, with its own; none where nothing is retrained."""
    rounds: tuple[int, ...]
    """The numbers of the rounds that are compared with it."""
    measured: bool
    """Whether it is measured, as controls of targets are."""

    @property
    def epochs(self) -> tuple[int, int] | None:
        """First epoch and end of its own retraining; None where it is the dense network itself."""
        return self.trainings[-1] if self.trainings else None

    @property
    def retrainings(self) -> int:
        """The number of retrainings it has had."""
        return len(self.trainings)

    @property
    def trained_epochs(self) -> int:
        """The epochs of all its retrainings."""
        return sum(stop - start for start, stop in self.trainings)


def plan_controls(recipe: Recipe, given: float = 1.0) -> list[PlannedControl]:
    """The controls of a job, each after the one it goes on from.

    A round is compared with the control that has had its retrainings; with the budget `one_round`
    all rounds are compared with the control of one whole retraining. `given` is the density of the
    network as it comes, as in `plan_rounds`.
    """
    rounds: dict[Trainings, list[PlannedRound]] = {}
    for planned in plan_rounds(recipe, given):
        rounds.setdefault(_find_trainings(recipe, planned), []).append(planned)
    # The control of one whole retraining keeps the name that it has in files of earlier versions.
    whole = find_training_epochs(recipe)
    stages = {
        trainings: "control" if trainings in ((), (whole,)) else f"control-{number:03d}"
        for number, trainings in enumerate(rounds, 1)
    }
    return [
        PlannedControl(
            stage=stages[trainings],
            before=stages[trainings[:-1]] if trainings[:-1] else None,
            trainings=trainings,
            rounds=tuple(planned.number for planned in compared),
            measured=_has_target(compared),
        )
        for trainings, compared in rounds.items()
    ]


def _find_trainings(recipe: Recipe, planned: PlannedRound) -> Trainings:
    """The retrainings of the control that a round is compared with."""
    if recipe.when == "before_training":
        return ()  # the dense network has had the training that pruned networks have
    if recipe.control.budget == "matched":
        return planned.trainings
    whole = find_training_epochs(recipe)
    return () if whole is None else (whole,)


def _has_target(rounds: Sequence[PlannedRound]) -> bool:
    return any(planned.target is not None for planned in rounds)
