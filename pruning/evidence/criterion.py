"""The interfaces of a criterion: what it must answer, and what it may say beyond that."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Protocol, TypeGuard, runtime_checkable

if TYPE_CHECKING:
    from pruning.evidence.evidence import Evidence
from pruning.types import Calibration, Masks, Scores


class Criterion(Protocol):
    """A method that scores how much each weight matters; higher keeps.

    A criterion may say more by attributes, `allocation` (the one its paper uses; default `global`),
    `sparsifier` (default `top_k`; a name, or a `Method` with parameters) and `granularity` (what it
    scores; default `weight`), and by the methods of `AsksForCalibration`, `EstimatesWork`,
    `EstimatesMemory`, `ScoresInStages`, `PredictsLossChange` and `CompensatesRemoval`. The last may
    have an attribute `update`, False where the weights that remain stay as they are all the same.
    """

    def score(self, evidence: Evidence) -> Scores:
        """Return scores by parameter name, for every prunable weight of the evidence."""


@runtime_checkable
class AsksForCalibration(Protocol):
    """A criterion that says which images it wants.

    Other criteria get 1,000 images at random, if they ask for any.
    """

    def calibration(self, classes: int) -> Calibration:
        """Return how many images to draw, and whether equally many of every class."""


@runtime_checkable
class EstimatesWork(Protocol):
    """A criterion that says how much work it is; the work of other criteria is not counted."""

    def units(self, classes: int) -> int:
        """Return the work of one scoring, in forward passes of one image.

        It is proportional to the images the criterion asks for, if it asks for any.
        """


@runtime_checkable
class EstimatesMemory(Protocol):
    """A criterion that says what it holds in memory.

    For other criteria only the network and its activations are counted.
    """

    def memory(self, shapes: Collection[Sequence[int]], images: int) -> int:
        """Return about how many bytes one scoring takes beside the network and its activations.

        `shapes` are those of the prunable weights, `images` is the number of calibration images.
        """


@runtime_checkable
class ScoresInStages(Protocol):
    """A criterion that prunes in stages within one round.

    In each stage it scores the network again at the masked point; nothing is retrained between.
    """

    def stage_densities(self, start: float, target: float) -> Sequence[float]:
        """Return strictly decreasing densities below `start`, the last exactly `target`."""


@runtime_checkable
class PredictsLossChange(Protocol):
    """A criterion that predicts what removing weights does to the loss."""

    def predict(self, evidence: Evidence, masks: Masks) -> float:
        """Predict the change of the mean loss when weights are removed.

        Removed are the weights that `masks` prune and the evidence still holds.
        """


@runtime_checkable
class CompensatesRemoval(Protocol):
    """A criterion that moves the weights which remain, to make up for those removed."""

    def compensate(self, evidence: Evidence, masks: Masks) -> Scores:
        """Return the new weights by name, zero where `masks` prune.

        The evidence holds the point before the removal.
        """


def moves_weights(criterion: Criterion) -> TypeGuard[CompensatesRemoval]:
    """Whether a criterion moves the weights that remain."""
    return isinstance(criterion, CompensatesRemoval) and bool(getattr(criterion, "update", True))
