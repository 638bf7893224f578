"""Intervals against bisection, and their coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pruning.measurement.intervals import Z95, binomial_interval, difference_interval, mean_interval
from pruning.measurement.skewed_means import limit_mean, skewed_mean_interval
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


def test_the_interval_of_skewed_samples_turns_to_students_without_skewness() -> None:
    values = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    symmetric = torch.cat([values, -values]) + 3
    interval = skewed_mean_interval(symmetric)
    width = 1.9842169515 * float(symmetric.std()) / 10
    assert (high(interval) - 3, 3 - low(interval)) == pytest.approx((width, width))
    assert skewed_mean_interval(torch.ones(1)).low is None
    flat = skewed_mean_interval(torch.ones(5))
    assert (flat.low, flat.high) == (1.0, 1.0)
    large = skewed_mean_interval(1e7 + (torch.arange(100) % 2).float())
    assert high(large) - large.value == pytest.approx(1.9842169515 * math.sqrt(0.25 / 99))
    tail = skewed_mean_interval(torch.tensor([0.0] * 99 + [50.0]))
    assert high(tail) - tail.value > 2 * (tail.value - low(tail)) > 0


@pytest.mark.parametrize("n", [200, 1000])
def test_intervals_of_heavy_tailed_losses_cover_the_mean(n: int) -> None:
    """Losses of a pruned network: most images as before, a few far off."""
    rng = np.random.default_rng(0)
    repeats = 2000
    misses = {}
    for sign in (1, -1):
        hit = rng.random((repeats, n)) < 0.05
        changes = sign * np.where(hit, rng.lognormal(0, 1.25, (repeats, n)), 0.01)
        mean = sign * (0.05 * math.exp(1.25**2 / 2) + 0.95 * 0.01)
        values = torch.from_numpy(changes)
        below, above = (limit.numpy() for limit in limit_mean(values))
        centre = changes.mean(1)
        missed = (mean < centre - below) | (mean > centre + above)
        normal = np.abs(centre - mean) > Z95 * changes.std(1, ddof=1) / math.sqrt(n)
        misses[sign] = missed.mean(), normal.mean()
    print(f"means of heavy-tailed losses missed, n = {n}: {misses} (now, normal)")  # noqa: T201
    for missed_now, missed_normal in misses.values():
        assert missed_now <= 0.075 < missed_normal
