"""The effect of pruning on the loss of training images: the change of one round, and one round
against another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pruning import wording
from pruning.analysis.job_record import RoundRecord
from pruning.measurement.objective import LARGEST_LOSS
from pruning.measurement.skewed_means import skewed_mean_interval
from pruning.rounds.pruning import StageLoss
from pruning.schemas.report import Estimate

OFF_SCALE = 1e30
"""A larger mean loss is of images on which the network overflows float32, and is no measurement."""


@dataclass(frozen=True)
class LossChange:
    """The mean change of the loss on the same training images, right before and right after one
    round's pruning, in nats.
    """

    estimate: Estimate | None
    """The change with its paired 95 % interval; None where the network overflows."""
    overflowed: int
    """The number of images whose loss is beyond float32 before or after."""

    def document(self) -> dict[str, Any] | str:
        """The change as a table shows it."""
        if self.estimate is None:
            return f"overflow on {wording.count_of(self.overflowed, 'image')}"
        return self.estimate.model_dump()

    @property
    def magnitude(self) -> float:
        """|Delta L|; infinite where the network overflows."""
        return math.inf if self.estimate is None else abs(self.estimate.value)


def mean_loss_change(round_record: RoundRecord) -> LossChange:
    """Delta L = mean(after - before) over the images."""
    before, after = round_record.losses()
    return _estimate_difference(after, before)


def loss_change_since_start(rounds: Sequence[RoundRecord], round_record: RoundRecord) -> LossChange:
    """The mean loss right after a round's pruning less that before the first round of its
    criterion.

    Every criterion of a job starts from the same network, so these can be compared; in a cascade
    the change of a late round cannot: a network that is ruined already has nothing left to lose.
    """
    of_criterion = [other for other in rounds if other.label == round_record.label]
    first = min(of_criterion, key=lambda other: other.round)
    _, after = round_record.losses()
    before, _ = first.losses()
    return _estimate_difference(after, before)


def compare_first_rounds(first: RoundRecord, second: RoundRecord) -> LossChange:
    """The mean loss after pruning of a first round less that of a second, paired by image."""
    return _estimate_difference(first.losses()[1], second.losses()[1])


def compare_draws(first: Tensor, second: Tensor, confidence: float = 0.95) -> LossChange:
    """The mean over draws and images of first - second, float (draws, n) both.

    Draws and images are crossed: the squares of the limits over images (see `limit_mean`, of the
    means over draws) and of Student's over draws (of the means over images) are added. What draws
    and images do together counts in both, so the interval is rather too wide than too narrow.
    Zou and Donner, Statistics in Medicine 27 (2008), for the sum of squares.

    >>> losses = Tensor([[0.0, 1.0, 2.0], [1.0, 2.0, 3.0]])
    >>> compare_draws(losses, 0 * losses).estimate.value
    1.5
    """
    overflow = (first >= LARGEST_LOSS) | (second >= LARGEST_LOSS)
    if bool(overflow.any()):
        return LossChange(None, int(overflow.any(0).sum()))
    differences = first.double() - second.double()
    over_images = skewed_mean_interval(
        differences.mean(0), confidence=confidence, unit="nats_difference"
    )
    draws = len(differences)
    if draws < 2 or over_images.low is None or over_images.high is None:
        return LossChange(over_images, 0)
    from scipy.special import stdtrit

    quantile = float(stdtrit(draws - 1, (1 + confidence) / 2))
    spread = quantile * float(differences.mean(1).std()) / math.sqrt(draws)
    value = over_images.value
    low = value - math.hypot(value - over_images.low, spread)
    high = value + math.hypot(over_images.high - value, spread)
    return LossChange(over_images.model_copy(update={"low": low, "high": high}), 0)


def _estimate_difference(first: Tensor, second: Tensor) -> LossChange:
    """The mean of first - second with its paired interval, both (n,)."""
    return compare_draws(first[None], second[None])


@dataclass(frozen=True, kw_only=True)
class StagePoint:
    """The change of the loss in one stage of a round, predicted and measured, in the stage and
    since the round began.

    Numbers are None where a loss is off the scale; the stages after that have no sum either.
    """

    number: int
    sparsity: float
    predicted: float | None
    measured: float | None
    predicted_sum: float | None
    measured_sum: float | None
    images: int

    @property
    def factor(self) -> float | None:
        """The predicted over the measured change; None where the latter is zero."""
        if self.predicted is None or not self.measured:
            return None
        return self.predicted / self.measured


def list_stage_points(stages: Sequence[StageLoss]) -> list[StagePoint]:
    """The stages of one round in order, with running sums.

    >>> stages = [StageLoss(0.5, 0.2, 1.0, 1.5, 9), StageLoss(0.75, 0.4, 1.4, 1.8, 9)]
    >>> for point in list_stage_points(stages):
    ...     print(point.sparsity, round(point.predicted_sum, 2), round(point.measured_sum, 2))
    0.5 0.2 0.5
    0.75 0.6 0.9
    """
    points: list[StagePoint] = []
    predicted_sum: float | None = 0.0
    measured_sum: float | None = 0.0
    for number, stage in enumerate(stages, 1):
        predicted = _drop_off_scale(stage.predicted)
        before, after = _drop_off_scale(stage.before), _drop_off_scale(stage.after)
        measured = after - before if before is not None and after is not None else None
        predicted_sum = _add(predicted_sum, predicted)
        measured_sum = _add(measured_sum, measured)
        points.append(
            StagePoint(
                number=number,
                sparsity=stage.sparsity,
                predicted=predicted,
                measured=measured,
                predicted_sum=predicted_sum,
                measured_sum=measured_sum,
                images=stage.images,
            )
        )
    return points


def _drop_off_scale(value: float) -> float | None:
    """The loss itself; None where it is off the scale."""
    return value if abs(value) < OFF_SCALE else None  # also None for nan


def _add(total: float | None, value: float | None) -> float | None:
    """The sum; None where either is unknown."""
    return None if total is None or value is None else total + value
