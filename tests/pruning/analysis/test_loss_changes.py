"""Loss changes of rounds and their sums over stages."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import t

from pruning.analysis.loss_changes import (
    compare_first_rounds,
    list_stage_points,
    loss_change_since_start,
    mean_loss_change,
)
from pruning.rounds.pruning import StageLoss
from tests.support.loss_rounds import MAX, around, make_round


def test_changes_and_differences_by_hand() -> None:
    before, after = torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([1.0, 1.0, 4.0, 4.0])
    change = mean_loss_change(make_round("a", before=before, after=after))
    assert change.estimate is not None
    half = t.ppf(0.975, 3) * math.sqrt((0 + 1 + 1 + 0) / 3 / 4)
    assert (change.estimate.value, change.estimate.n, change.overflowed) == (1.0, 4, 0)
    assert [change.estimate.low, change.estimate.high] == pytest.approx([1 - half, 1 + half])
    other = make_round("b", before=before, after=torch.tensor([1.0, 1.0, 3.0, 3.0]))
    difference = compare_first_rounds(make_round("a", before=before, after=after), other)
    assert difference.estimate is not None
    assert difference.estimate.value == 0.5
    half = t.ppf(0.975, 3) * math.sqrt(1 / 3 / 4)
    assert difference.estimate.low == pytest.approx(0.5 - half)


def test_an_interval_of_large_losses_is_not_lost_to_cancellation() -> None:
    change = mean_loss_change(
        make_round("a", before=torch.zeros(100), after=1e7 + (torch.arange(100) % 2).float())
    )
    assert change.estimate is not None
    assert change.estimate.low is not None
    assert change.estimate.value - change.estimate.low == pytest.approx(
        t.ppf(0.975, 99) * math.sqrt(0.25 / 99), rel=1e-6
    )


def test_since_start_compares_with_the_network_before_the_first_round() -> None:
    first = make_round("a", 0.5, before=0.2, after=2.0)
    second = make_round("a", 0.8, before=1.9, after=2.3, number=2)
    other = make_round("b", 0.5, before=0.7, after=0.9)
    total, alone = loss_change_since_start([other, second, first], second), mean_loss_change(second)
    assert total.estimate is not None
    assert total.estimate.value == pytest.approx(2.1, abs=1e-6)
    assert alone.estimate is not None
    assert alone.estimate.value == pytest.approx(0.4, abs=1e-6)


def test_an_overflow_is_no_number() -> None:
    after = around(0.5)
    after[3:5] = MAX
    change = mean_loss_change(make_round("a", after=after))
    assert (change.estimate, change.overflowed, change.magnitude) == (None, 2, math.inf)
    assert change.document() == "overflow on 2 images"
    stages = (
        StageLoss(0.3, 0.1, 0.2, 0.4, 9),
        StageLoss(0.5, math.inf, 0.4, 1e35, 9),
        StageLoss(0.6, 0.1, math.nan, 1.0, 9),
    )
    points = list_stage_points(stages)
    assert [point.predicted_sum for point in points] == [0.1, None, None]
    assert [point.measured_sum for point in points] == [0.2, None, None]
    assert [point.factor for point in points] == [0.5, None, None]
