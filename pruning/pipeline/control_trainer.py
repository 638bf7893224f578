"""The dense controls of a job: the dense network, retrained as the pruned networks are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from torch import nn

from pruning.analysis.job_record import ControlRecord
from pruning.measurement.measure import Measured
from pruning.pipeline.ledger import Ledger
from pruning.pipeline.stage_files import ControlStage, DenseStage, Weights
from pruning.pipeline.trainer import Trainer
from pruning.rounds.control_plan import PlannedControl, plan_controls
from pruning.rounds.costs import Costs
from pruning.schemas.recipe import Recipe

CONTROL = "control"
"""The name of the control with the fewest retrainings, and of the only one, in reports."""


@dataclass(kw_only=True)
class ControlTrainer:
    """Trains the controls of a job, each once, when the first round is to be compared with it."""

    recipe: Recipe
    costs: Costs
    ledger: Ledger
    trainer: Trainer
    load_dense: Callable[[], DenseStage]
    build: Callable[[Weights], nn.Module]
    """Builds the network with these weights."""
    measure: Callable[[nn.Module], Measured]
    records: list[ControlRecord] = field(default_factory=list)
    """The controls that are finished and measured, those with fewer retrainings first."""
    _finished: set[str] = field(default_factory=set)
    """The stages of the controls that are finished."""

    def __post_init__(self) -> None:
        self._planned = plan_controls(self.recipe, self.costs.given)

    def prepare(self, round_number: int) -> None:
        """Train and measure the control that a round is compared with, unless that is done.

        The rounds before it are to be prepared first: controls go on from each other.
        """
        planned = next(control for control in self._planned if round_number in control.rounds)
        if planned.stage in self._finished:
            return
        cost = self.costs.one_control(planned)
        restore = partial(ControlStage.restore, measured=planned.measured)
        with self.ledger.enter("retrain", planned.stage, cost, restore) as unfinished:
            if unfinished:
                self._run(planned)
        self._finished.add(planned.stage)
        if planned.measured:
            stage = self.ledger.restore(planned.stage, restore)
            self.records.append(self._record(planned, stage))

    def _run(self, planned: PlannedControl) -> None:
        """Train, measure and save a control, from the one before or the dense network."""
        dense = self.load_dense()
        measured: Measured | None = dense.measured
        model = self.build(dense.model if planned.before is None else self._load(planned.before))
        if planned.epochs is not None:
            self.trainer.retrain_(
                model, planned.stage, epochs=planned.epochs, number=planned.retrainings
            )
            measured = self.measure(model) if planned.measured else None
        stage = ControlStage(model=model.state_dict(), measured=measured)
        self.ledger.finish(planned.stage, stage.tensors())

    def _load(self, stage: str) -> Weights:
        """The weights of a finished control."""
        return self.ledger.restore(stage, partial(ControlStage.restore, measured=False)).model

    def _record(self, planned: PlannedControl, stage: ControlStage) -> ControlRecord:
        assert stage.measured is not None
        name = f"{CONTROL}-{planned.retrainings}" if self.records else CONTROL
        return ControlRecord(
            name=name,
            rounds=planned.rounds,
            retrainings=planned.retrainings,
            retrain_epochs=planned.trained_epochs,
            measured=stage.measured,
            network=partial(self.build, stage.model),
        )
