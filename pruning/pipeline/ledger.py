"""The account of a job: its finished stages, its progress, and what the user should know."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from pruning.measurement.measure import Measured
from pruning.storage.stages import PartialTraining, Stages

State = dict[str, Tensor]


def add_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> State:
    """The tensors with a prefix before their names, which `Ledger.load_part` removes again."""
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def copy_state(model: nn.Module) -> State:
    """A copy of the weights, which later changes of the model leave alone."""
    return {name: value.clone() for name, value in model.state_dict().items()}


class Watcher(Protocol):
    """An observer that is notified of what a job is doing."""

    def stage(self, stage: str, name: str) -> None:
        """A stage begins: `baseline`, `prune`, `retrain`, `evaluate` or `export`."""

    def progress(self, done: float, total: float) -> None:
        """Work was done, `done` of `total` in forward passes of one image."""

    def warn(self, message: str) -> None:
        """There is something the user should know."""


class Silent:
    """A watcher that ignores what it is notified of."""

    def stage(self, stage: str, name: str) -> None:
        """Say nothing."""

    def progress(self, done: float, total: float) -> None:
        """Say nothing."""

    def warn(self, message: str) -> None:
        """Say nothing."""


@dataclass(kw_only=True)
class Ledger:
    """Stages with their time and warnings, and progress out of `total` units."""

    stages: Stages
    watcher: Watcher
    total: float
    seconds: dict[str, float] = field(default_factory=dict)
    """The seconds of the attempt that finished a stage, by stage."""
    warnings: list[str] = field(default_factory=list)
    _base: float = 0.0
    """The units of the stages before the current one."""
    _within: float = 0.0
    """The units done in the current stage."""
    _began: float = 0.0
    """The time at which the current stage began."""
    _warned: int = 0
    """The number of warnings before the current stage."""

    @contextmanager
    def enter(self, stage: str, name: str, units: int) -> Iterator[bool]:
        """Enter a stage worth `units`; yields whether it is unfinished, and then `finish` must be
        called.
        """
        self.watcher.stage(stage, name)
        self._began = time.monotonic()
        self._within = 0.0
        self._warned = len(self.warnings)
        unfinished = self.stages.load(name) is None
        yield unfinished
        if not unfinished:
            # The attempt that finished the stage may have ended before it dropped this.
            PartialTraining(self.stages, name).drop()
        _, note = self.load(name)
        self.seconds[name] = note["seconds"]
        for message in note["warnings"]:
            if message not in self.warnings:
                self.warn(message)
        self._complete(units)

    @contextmanager
    def share(self, units: int) -> Iterator[None]:
        """Count the work inside as `units` of progress, however it ends."""
        self._within = 0.0
        try:
            yield
        finally:
            self._complete(units)

    def _complete(self, units: int) -> None:
        """Count a stage as its estimated units, whatever was counted inside it."""
        self._base += units
        self._within = 0.0
        self.advance(0)

    def finish(self, name: str, tensors: State, notes: Mapping[str, Any] | None = None) -> None:
        """Save the stage that was entered, with notes beside its tensors, and drop the states saved
        inside its training.
        """
        note = {
            "seconds": time.monotonic() - self._began,
            "warnings": self.warnings[self._warned :],
            **(notes or {}),
        }
        self.stages.save(name, tensors, note)
        PartialTraining(self.stages, name).drop()

    def advance(self, units: int) -> None:
        """Count work done inside the stage."""
        self._within += units
        self.watcher.progress(min(self._base + self._within, self.total), self.total)

    def warn(self, message: str) -> None:
        """Tell the user, now and in the report."""
        self.warnings.append(message)
        self.watcher.warn(message)

    def load(self, name: str, prefix: str = "") -> tuple[State, dict[str, Any]]:
        """A finished stage: the tensors whose names begin with `prefix`, and the note."""
        saved = self.stages.load(name, prefix)
        assert saved is not None, f"stage {name} is not finished"
        return saved

    def load_part(self, name: str, prefix: str) -> State:
        """The tensors of a finished stage whose names begin with `prefix`, without the prefix."""
        tensors, _ = self.load(name, prefix)
        return {key.removeprefix(prefix): value for key, value in tensors.items()}

    def load_measured(self, name: str, prefix: str) -> Measured:
        """The measurements kept with a finished stage."""
        tensors, _ = self.load(name, f"{prefix}.")
        return Measured.restore(tensors, prefix)
