"""The account of a job: its finished stages, its progress, and what the user should know."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from torch import nn

from pruning.storage.stages import PartialTraining, Stages, State, StoredStage

Restored = TypeVar("Restored")


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

    def __post_init__(self) -> None:
        self.stages.warn = self.warn

    @contextmanager
    def enter(
        self, stage: str, name: str, units: int, restore: Callable[[StoredStage], object]
    ) -> Iterator[bool]:
        """Enter a stage worth `units`; yields whether it is unfinished, and then `finish` must be
        called.

        A file from which `restore` raises `KeyError` lacks something, as that of another version
        of Secateur may: the stage is unfinished.
        """
        self.watcher.stage(stage, name)
        self._began = time.monotonic()
        self._within = 0.0
        self._warned = len(self.warnings)
        unfinished = not self._is_finished(name, restore)
        yield unfinished
        if not unfinished:
            # The attempt that finished the stage may have ended before it dropped this.
            PartialTraining(self.stages, name).drop()
        note = self.open(name).note
        self.seconds[name] = note["seconds"]
        for message in note["warnings"]:
            if message not in self.warnings:
                self.warn(message)
        self._complete(units)

    def _is_finished(self, name: str, restore: Callable[[StoredStage], object]) -> bool:
        """Whether a stage has a file with all that it needs; a file without is removed."""
        stored = self.stages.open(name)
        if stored is None:
            return False
        try:
            for entry in ("seconds", "warnings"):
                stored.note[entry]
            restore(stored)
        except KeyError as error:
            self.stages.drop(name)
            self.warn(
                f"the stage {name} is run again: its file, which another version of Secateur may "
                f"have written, lacks {error.args[0]}"
            )
            return False
        return True

    @contextmanager
    def share(self, units: int) -> Iterator[None]:
        """Count the work inside as `units` of progress, however it ends."""
        self._within = 0.0
        try:
            yield
        finally:
            self._complete(units)

    def _complete(self, units: float) -> None:
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

    def reach(self, units: float) -> None:
        """Count as done what was estimated and not needed, up to so many units."""
        self._complete(max(0.0, units - self._base))

    def warn(self, message: str) -> None:
        """Tell the user, now and in the report."""
        self.warnings.append(message)
        self.watcher.warn(message)

    def open(self, name: str) -> StoredStage:
        """The file of a finished stage, of which no tensor is read yet."""
        stored = self.stages.open(name)
        assert stored is not None, f"stage {name} is not finished"
        return stored

    def restore(self, name: str, restore: Callable[[StoredStage], Restored]) -> Restored:
        """The contents of a finished stage, which `restore` reads from its file."""
        return restore(self.open(name))
