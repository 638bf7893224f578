"""Intervals against bisection, and their coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pruning.measurement.intervals import Z95, binomial_interval, difference_interval, mean_interval
from pruning.schemas.report import Estimate
from tests.support import oracles


def low(interval: Estimate) -> float:
    """The lower end of an interval that has one."""
    assert interval.low is not None
    return interval.low


def high(interval: Estimate) -> float:
    """The upper end of an interval that has one."""
    assert interval.high is not None
    return interval.high


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [1, 2, 7, 30])
def test_binomial_agrees_with_bisection_of_the_tail_sums(n: int, confidence: float) -> None:
    for errors in range(n + 1):
        interval = binomial_interval(errors, n, confidence)
        assert (interval.low, interval.high) == pytest.approx(
            oracles.clopper_pearson(errors, n, confidence), abs=1e-10
        )
        assert 0 <= low(interval) <= interval.value <= high(interval) <= 1
        assert (interval.value, interval.n) == (errors / n, n)


def test_binomial_is_symmetric() -> None:
    for errors in range(26):
        interval, mirrored = binomial_interval(errors, 25), binomial_interval(25 - errors, 25)
        assert (interval.low, interval.high) == pytest.approx(
            (1 - high(mirrored), 1 - low(mirrored)), abs=1e-12
        )


@pytest.mark.parametrize("n", [5, 20, 60])
def test_binomial_covers_at_least_as_often_as_it_says(n: int) -> None:
    intervals = [binomial_interval(k, n) for k in range(n + 1)]
    for rate in np.linspace(0.001, 0.999, 333).tolist():
        covered = math.fsum(
            math.comb(n, k) * rate**k * (1 - rate) ** (n - k)
            for k, interval in enumerate(intervals)
            if low(interval) <= rate <= high(interval)
        )
        assert covered >= 0.95 - 1e-9


@pytest.mark.parametrize(
    ("b", "c", "n"), [(0.02, 0.01, 400), (0.1, 0.1, 200), (0.3, 0.05, 100), (0.01, 0.01, 1000)]
)
def test_paired_difference_covers_about_as_often_as_it_says(b: float, c: float, n: int) -> None:
    rng = np.random.default_rng(0)
    draws, times = np.unique(
        rng.multinomial(n, [b, c, 1 - b - c], size=20_000)[:, :2], axis=0, return_counts=True
    )
    hits = 0
    for (first, second), count in zip(draws.tolist(), times.tolist(), strict=True):
        interval = difference_interval(first, second, n)
        hits += count * (low(interval) <= b - c <= high(interval))
    assert 0.93 <= hits / 20_000 <= 0.975


def test_paired_difference_is_antisymmetric_and_holds_its_value() -> None:
    for n in (1, 2, 10, 50):
        for first in range(n + 1):
            for second in range(n + 1 - first):
                interval, mirrored = (
                    difference_interval(first, second, n),
                    difference_interval(second, first, n),
                )
                assert interval.value == (first - second) / n == -mirrored.value
                assert (interval.low, interval.high) == pytest.approx(
                    (-high(mirrored), -low(mirrored))
                )
                assert -1 <= low(interval) <= interval.value <= high(interval) <= 1


def test_mean_is_the_textbook_interval() -> None:
    samples = [0.5, 1.5, 4.0, 2.0]
    interval = mean_interval(math.fsum(samples), math.fsum(x * x for x in samples), 4)
    spread = Z95 * float(np.std(samples, ddof=1)) / 2
    assert (interval.value, interval.low, interval.high) == pytest.approx(
        (2.0, 2 - spread, 2 + spread)
    )


def test_one_sample_has_no_spread_to_speak_of() -> None:
    interval = mean_interval(3.0, 9.0, 1)
    assert (interval.value, interval.low, interval.high, interval.n) == (3.0, None, None, 1)


@pytest.mark.parametrize(("errors", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts_are_refused(errors: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"{errors} errors of {n}"):
        binomial_interval(errors, n)


@pytest.mark.parametrize("counts", [(-1, 0, 5), (3, 3, 5), (0, 0, 0)])
def test_impossible_pairs_are_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=f"of {counts[2]}"):
        difference_interval(*counts)
