"""The interfaces of a criterion: what it must answer, and what it may say beyond that."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pruning.evidence.evidence import Evidence
from pruning.types import Calibration, Masks, Scores


class Criterion(Protocol):
    """How much each weight matters; higher keeps.

    A criterion may say more by attributes, `allocation` (the one its paper uses; default `global`),
    `sparsifier` (default `top_k`; a name, or a `Method` with parameters) and `granularity` (what it
    scores; default `weight`), and by the methods of `AsksForCalibration`, `EstimatesWork`,
    `EstimatesMemory`, `ScoresInStages`, `PredictsLossChange` and `CompensatesRemoval`.
    """

    def score(self, evidence: Evidence) -> Scores:
        """Scores by parameter name, for every prunable weight of the evidence."""


@runtime_checkable
class AsksForCalibration(Protocol):
    """A criterion that says which images it wants; others get 1,000 at random, if they ask for
    any.
    """

    def calibration(self, classes: int) -> Calibration:
        """How many images, and drawn how."""


@runtime_checkable
class EstimatesWork(Protocol):
    """A criterion that says how much work it is; that of others is not counted."""

    def units(self, classes: int) -> int:
        """Work of one scoring, in forward passes of one image; proportional to the images it asks
        for, if it asks.
        """


@runtime_checkable
class EstimatesMemory(Protocol):
    """A criterion that says what it holds in memory; of others the network and its activations are
    counted.
    """

    def memory(self, shapes: Collection[Sequence[int]], images: int) -> int:
        """Bytes beside these in one scoring, about, for prunable weights of these shapes and so
        many images.
        """


@runtime_checkable
class ScoresInStages(Protocol):
    """A criterion that prunes in stages within one round: scored anew at the masked point, nothing
    retrained between.
    """

    def stage_densities(self, start: float, target: float) -> Sequence[float]:
        """Strictly decreasing densities below `start`, the last of them exactly `target`."""


@runtime_checkable
class PredictsLossChange(Protocol):
    """A criterion that predicts what removing weights does to the loss."""

    def predict(self, evidence: Evidence, masks: Masks) -> float:
        """The modelled change of the mean loss when the weights that `masks` prune and the evidence
        holds are removed.
        """


@runtime_checkable
class CompensatesRemoval(Protocol):
    """A criterion that moves the weights which remain, to make up for those removed."""

    def compensate(self, evidence: Evidence, masks: Masks) -> Scores:
        """The new weights by name, zero where `masks` prune; the evidence holds the point
        before.
        """
