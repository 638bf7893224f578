"""The account of a job: which stages are finished, how far it is, what the user should know."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from pruning.measurement.measure import Measured
from pruning.storage.stages import PartialTraining, Stages

State = dict[str, Tensor]


class Watcher(Protocol):
    """Who is told what a job is doing."""

    def stage(self, stage: str, name: str) -> None:
        """A stage begins: `baseline`, `prune`, `retrain`, `evaluate` or `export`."""

    def progress(self, done: float, total: float) -> None:
        """Work done, in units of one image forward."""

    def warn(self, message: str) -> None:
        """Something the user should know."""


class Silent:
    """A watcher that tells nobody."""

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
    """By finished stage: how long the attempt that finished it took."""
    warnings: list[str] = field(default_factory=list)
    _base: float = 0.0
    _within: float = 0.0
    _began: float = 0.0
    _warned: int = 0

    @contextmanager
    def enter(self, stage: str, name: str, units: int) -> Iterator[bool]:
        """Enter a stage worth `units`; yields whether it has still to be done, and then `finish`
        must be called.
        """
        self.watcher.stage(stage, name)
        self._began, self._within, self._warned = time.monotonic(), 0.0, len(self.warnings)
        fresh = self.stages.load(name) is None
        yield fresh
        if not fresh:
            PartialTraining(self.stages, name).drop()
        _, note = self.load(name)
        self.seconds[name] = note["seconds"]
        for message in note["warnings"]:
            if message not in self.warnings:
                self.warn(message)
        self._base, self._within = self._base + units, 0.0
        self.advance(0)

    @contextmanager
    def share(self, units: int) -> Iterator[None]:
        """Work worth `units` of progress, however it ends."""
        self._within = 0.0
        try:
            yield
        finally:
            self._base, self._within = self._base + units, 0.0
            self.advance(0)

    def finish(self, name: str, tensors: State, notes: Mapping[str, Any] | None = None) -> None:
        """Save the stage that was entered, with notes beside its tensors; what was saved inside its
        training is dropped.
        """
        note = {
            "seconds": time.monotonic() - self._began,
            "warnings": self.warnings[self._warned :],
            **(notes or {}),
        }
        self.stages.save(name, tensors, note)
        PartialTraining(self.stages, name).drop()

    def advance(self, units: int) -> None:
        """Work done inside the stage."""
        self._within += units
        self.watcher.progress(min(self._base + self._within, self.total), self.total)

    def warn(self, message: str) -> None:
        """Tell the user, now and in the report."""
        self.warnings.append(message)
        self.watcher.warn(message)

    def load(self, name: str, prefix: str = "") -> tuple[State, dict[str, Any]]:
        """A finished stage: the tensors whose names begin with `prefix`, and the note."""
        saved = self.stages.load(name, prefix)
        assert saved is not None, f"stage {name} is not there"
        return saved

    def part(self, name: str, prefix: str) -> State:
        """The tensors of a finished stage below `prefix`, which their names lose."""
        return {
            key.removeprefix(prefix): value for key, value in self.load(name, prefix)[0].items()
        }

    def measured(self, name: str, prefix: str) -> Measured:
        """The measurements kept with a finished stage."""
        return Measured.restore(self.load(name, f"{prefix}.")[0], prefix)
