"""The four seams of a pruning method, and what passes between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from torch import Generator, Tensor, nn

if TYPE_CHECKING:
    from pruning.evidence import Evidence

Scores: TypeAlias = dict[str, Tensor]
"""By parameter name; each broadcasts against its weight, higher keeps, -inf marks what is pruned already."""
Masks: TypeAlias = dict[str, Tensor]
"""By parameter name, shaped as the weight, True keeps."""
Keeps: TypeAlias = dict[str, int]
"""By parameter name: how many weights remain."""


@dataclass(frozen=True)
class Budget:
    """How many weights may remain in all, and how many each layer has."""

    keep: int
    sizes: Mapping[str, int]

    @property
    def total(self) -> int:
        """All prunable weights."""
        return sum(self.sizes.values())


@dataclass(frozen=True)
class Sparse:
    """A layer after sparsification: its mask, and its weight (a sampler reweights what it keeps)."""

    mask: Tensor
    weight: Tensor


class Criterion(Protocol):
    """How much each weight matters; higher keeps."""

    def score(self, evidence: Evidence) -> Scores:
        """Scores by parameter name, for every prunable weight of the evidence."""


class Allocation(Protocol):
    """One budget over layers."""

    def allocate(self, scores: Scores, budget: Budget) -> Keeps:
        """How many weights each layer keeps; the counts add up to at most `budget.keep`."""


class Sparsifier(Protocol):
    """How one layer spends its share."""

    def sparsify(self, weight: Tensor, score: Tensor, keep: int, generator: Generator) -> Sparse:
        """The layer with `keep` weights left."""


class Schedule(Protocol):
    """Which densities lead from one to the next target."""

    def densities(self, start: float, target: float) -> Sequence[float]:
        """Strictly decreasing densities below `start`, the last of them exactly `target`."""


class Architecture(Protocol):
    """A named network; its fields are its hyper-parameters."""

    @property
    def input_shape(self) -> tuple[int | None, int | None, int | None]:
        """Channels, height and width it takes; None where any does."""

    @property
    def outputs(self) -> int:
        """Number of classes."""

    def build(self) -> nn.Module:
        """The network, freshly constructed."""
