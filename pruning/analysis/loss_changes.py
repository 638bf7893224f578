"""What pruning did to the loss on training images: the change of one round, and one round against
another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pruning import wording as q
from pruning.analysis.job_record import RoundRecord
from pruning.measurement.intervals import mean_interval
from pruning.rounds.pruning import StageLoss
from pruning.schemas.report import Estimate

OFF_SCALE = 1e30
"""A mean loss beyond this holds images on which the network overflows float32, and says nothing as
a number.
"""


@dataclass(frozen=True)
class LossChange:
    """The mean change of the loss on the same training images, right before and right after one
    round's pruning, in nats.
    """

    estimate: Estimate | None
    """With its paired normal 95 % interval; None where the network overflows."""
    overflowed: int
    """Images whose loss is beyond float32 before or after."""

    def document(self) -> dict[str, Any] | str:
        """What a table shows."""
        if self.estimate is None:
            return f"overflow on {q.count_of(self.overflowed, 'image')}"
        return self.estimate.model_dump()

    @property
    def magnitude(self) -> float:
        """|Delta L|; infinite where the network overflows."""
        return math.inf if self.estimate is None else abs(self.estimate.value)


def mean_loss_change(one: RoundRecord) -> LossChange | None:
    """Delta L = mean(after - before) over the images; None where the losses were not kept."""
    if one.losses is None:
        return None
    return _difference(*reversed(one.losses()))


def loss_change_since_start(rounds: Sequence[RoundRecord], one: RoundRecord) -> LossChange | None:
    """Mean loss right after a round's pruning less that of the network before the first round of
    its criterion.

    Every criterion of a job starts from the same network, so these can be compared; in a cascade
    the change of a late round cannot: a network that is ruined already has nothing left to lose.
    """
    first = min(
        (other for other in rounds if other.label == one.label), key=lambda other: other.round
    )
    if one.losses is None or first.losses is None:
        return None
    return _difference(one.losses()[1], first.losses()[0])


def compare_first_rounds(first: RoundRecord, second: RoundRecord) -> LossChange | None:
    """Mean loss after pruning of a first round less that of a second, paired on the same training
    images.
    """
    if first.losses is None or second.losses is None:
        return None
    return _difference(first.losses()[1], second.losses()[1])


def _difference(first: Tensor, second: Tensor) -> LossChange:
    limit = torch.finfo(torch.float32).max
    overflowed = int(((first >= limit) | (second >= limit)).sum())
    values = first.double() - second.double()
    centre = float(values.mean())
    estimate = mean_interval(0.0, float(((values - centre) ** 2).sum()), len(values))
    low, high = (
        (None, None)
        if estimate.low is None or estimate.high is None
        else (centre + estimate.low, centre + estimate.high)
    )
    return LossChange(
        None if overflowed else Estimate(value=centre, low=low, high=high, n=len(values)),
        overflowed,
    )


@dataclass(frozen=True, kw_only=True)
class StagePoint:
    """One stage of a round: what the loss model predicted and what was measured, there and since
    the round began.

    None where a loss is off the scale; what follows such a stage has no sum either.
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
        """Predicted over measured, where the measured change is not zero."""
        return (
            self.predicted / self.measured if self.predicted is not None and self.measured else None
        )


def list_stage_points(stages: Sequence[StageLoss]) -> list[StagePoint]:
    """The stages of one round in order, with running sums.

    >>> for point in list_stage_points(
    ...     [StageLoss(0.5, 0.2, 1.0, 1.5, 9), StageLoss(0.75, 0.4, 1.4, 1.8, 9)]
    ... ):
    ...     print(point.sparsity, round(point.predicted_sum, 2), round(point.measured_sum, 2))
    0.5 0.2 0.5
    0.75 0.6 0.9
    """
    points: list[StagePoint] = []
    predicted_sum: float | None = 0.0
    measured_sum: float | None = 0.0
    for number, stage in enumerate(stages, 1):
        predicted = _on_scale(stage.predicted)
        before, after = _on_scale(stage.before), _on_scale(stage.after)
        measured = after - before if before is not None and after is not None else None
        predicted_sum, measured_sum = _add(predicted_sum, predicted), _add(measured_sum, measured)
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


def _on_scale(value: float) -> float | None:
    return value if abs(value) < OFF_SCALE else None  # false for nan too


def _add(total: float | None, value: float | None) -> float | None:
    return None if total is None or value is None else total + value
