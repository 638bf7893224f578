"""What an evaluation sees of a job, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import nn

from pruning.data.tensors import Data
from pruning.measure import Measured
from pruning.schemas.recipe import Method
from pruning.schemas.report import Section
from pruning.types import Masks


@dataclass(frozen=True)
class TrialRound:
    """One prune-and-retrain round of a job, measured."""

    criterion: Method
    label: str
    round: int
    sparsity: float
    density: float
    target: float | None
    """The requested sparsity when this round is a target."""
    retrain_epochs: int
    """Epochs of retraining received in all."""
    masks: Callable[[], Masks]
    network: Callable[[], nn.Module]
    """Loads the network as it was measured last (retrained where the recipe retrains)."""
    pruned: Measured
    retrained: Measured | None

    @property
    def id(self) -> str:
        """Of a target, the checkpoint's id: `magnitude-0.95`, unique within a job, safe in a URL."""
        return f"{self.label}-{self.target!r}"

    @property
    def measured(self) -> Measured:
        """The network as it would be shipped."""
        return self.retrained or self.pruned


@dataclass(frozen=True)
class Trial:
    """Everything an evaluation may look at."""

    data: Data
    dense: Callable[[], nn.Module]
    control: Callable[[], nn.Module]
    given_measured: Measured
    control_measured: Measured
    rounds: Sequence[TrialRound]


class Evaluation(Protocol):
    """One question asked of all networks of a job."""

    version: ClassVar[int]

    def evaluate(self, trial: Trial) -> Section:
        """The answer."""
