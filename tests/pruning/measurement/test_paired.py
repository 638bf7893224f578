"""Paired tests and limits against enumeration, and the rates at which they err."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import binom, binomtest, multinomial

from pruning.measurement.paired import (
    PairedErrors,
    adjust_holm,
    count_needed_images,
    count_paired_errors,
    find_limits,
    limit_increase,
    mcnemar_p_value,
    p_value_above,
    p_value_below,
    score_p_value,
)

JOBS = 10_000
SIZES = (100, 300, 1000, 3000, 10_000)
DISCORDANT = (0.01, 0.03, 0.1, 0.3)
LIMITS = (0.0, 0.005, 0.02)


def enumerate_outcomes(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of counts of n images."""
    pairs = [(b, c) for b in range(n + 1) for c in range(n + 1 - b)]
    first, second = np.array(pairs).T
    return first, second


def draw_jobs(
    n: int, discordant: float, increase: float, rng: np.random.Generator, jobs: int = JOBS
) -> tuple[np.ndarray, np.ndarray]:
    """Counts of simulated jobs with true rates of discordant images and of their difference."""
    rates = [(discordant + increase) / 2, (discordant - increase) / 2, 1 - discordant]
    first, second, _ = rng.multinomial(n, np.clip(rates, 0, 1), size=jobs).T
    return first, second


def weigh_outcomes(
    n: int, discordant: float, increase: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pair of counts that is not rarer than 1e-10, with its probability."""
    rates = max(0.0, (discordant + increase) / 2), max(0.0, (discordant - increase) / 2)
    first, second = (
        np.arange(*binom.interval(1 - 1e-10, n, rate) + np.array([0, 1])) for rate in rates
    )
    first, second = (counts.ravel() for counts in np.meshgrid(first, second, indexing="ij"))
    whole = first + second <= n
    first, second = first[whole], second[whole]
    rest = binom.pmf(first, n - second, rates[0] / (1 - rates[1]))
    return first, second, binom.pmf(second, n, rates[1]) * rest


def test_counts_are_those_of_discordant_images() -> None:
    pruned = torch.tensor([True, True, False, False, True])
    control = torch.tensor([False, True, True, False, False])
    errors = count_paired_errors(pruned, control)
    assert errors == PairedErrors(only_first=2, only_second=1, n=5)
    assert (errors.increase, errors.discordant) == (0.2, 3)
    with pytest.raises(ValueError, match="boolean"):
        count_paired_errors(torch.rand(3), torch.rand(3))
    with pytest.raises(ValueError, match="boolean"):
        count_paired_errors([True], [True, False])


@pytest.mark.parametrize("counts", [(-1, 0, 5), (3, 3, 5), (0, 0, 0)])
def test_counts_that_cannot_be_are_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="of"):
        PairedErrors(*counts)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 1), (5, 0), (7, 7), (12, 3), (3, 40), (900, 850)])
def test_mcnemar_agrees_with_the_exact_binomial_test(b: int, c: int) -> None:
    expected = binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert mcnemar_p_value(PairedErrors(b, c, 2000)) == pytest.approx(expected, rel=1e-9)


def test_at_limit_zero_the_test_agrees_with_the_exact_binomial_one() -> None:
    for b, c in ((30, 50), (100, 130), (40, 40), (480, 560)):
        exact = binomtest(b, b + c, 0.5, alternative="less").pvalue
        assert p_value_below(PairedErrors(b, c, 5000), 0.0) == pytest.approx(exact, rel=0.07)


def test_holm_agrees_with_its_definition() -> None:
    rng = np.random.default_rng(0)
    for m in (1, 2, 3, 6):
        p_values = rng.uniform(0, 0.2, m).tolist()
        adjusted = adjust_holm(p_values)
        for alpha in (0.01, 0.05, 0.1, 0.3):
            rejected = set()
            for rank, index in enumerate(sorted(range(m), key=p_values.__getitem__)):
                if p_values[index] > alpha / (m - rank):
                    break
                rejected.add(index)
            assert {index for index, p in enumerate(adjusted) if p <= alpha} == rejected
    assert adjust_holm([]) == []


@pytest.mark.parametrize("n", [4, 10, 25, 60])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_limits_cover_at_least_as_often_as_they_say(n: int, confidence: float) -> None:
    first, second = enumerate_outcomes(n)
    low, high = find_limits(first, second, n, confidence)
    outcomes = np.stack([first, second, n - first - second], 1)
    rates = (0.0, 0.01, 0.03, 0.07, 0.15, 0.3, 0.5)
    for p_first, p_second in itertools.product(rates, rates):
        weights = multinomial.pmf(outcomes, n, [p_first, p_second, 1 - p_first - p_second])
        assert weights.sum() == pytest.approx(1)
        increase = p_first - p_second
        assert weights[high >= increase - 1e-9].sum() >= confidence - 1e-9
        assert weights[low <= increase + 1e-9].sum() >= confidence - 1e-9


def test_limits_hold_what_the_tests_do_not_reject() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        n = int(rng.integers(1, 3000))
        discordant = rng.binomial(n, rng.choice([0.0, 0.02, 0.2, 1.0]))
        b = int(rng.binomial(discordant, rng.uniform()))
        errors = PairedErrors(b, int(discordant) - b, n)
        confidence = float(rng.choice([0.75, 0.95, 0.99]))
        low, high = limit_increase(errors, confidence)
        assert -1 <= low <= errors.increase <= high <= 1
        for shift in (1e-6, 1e-3, 0.1):
            if high + shift < 1:
                assert p_value_below(errors, high + shift) <= 1 - confidence
            assert p_value_below(errors, max(-1.0, high - shift)) > 1 - confidence
            if low - shift > -1:
                assert p_value_above(errors, low - shift) <= 1 - confidence
            assert p_value_above(errors, min(1.0, low + shift)) > 1 - confidence


def test_more_confidence_or_fewer_images_widen_the_limits() -> None:
    at = [limit_increase(PairedErrors(20, 10, 1000), level) for level in (0.8, 0.95, 0.99)]
    assert at[0][1] < at[1][1] < at[2][1]
    assert at[0][0] > at[1][0] > at[2][0]
    fewer = limit_increase(PairedErrors(2, 1, 100))
    assert fewer[0] < at[1][0] < at[1][1] < fewer[1]


def test_an_increase_of_the_limit_passes_in_at_most_the_nominal_share_of_jobs() -> None:
    exact = {}
    for n, discordant, limit in itertools.product(SIZES, DISCORDANT, LIMITS):
        if discordant >= limit:
            first, second, weights = weigh_outcomes(n, discordant, limit)
            below = score_p_value(first, second, n, limit)
            above = score_p_value(second, first, n, -limit)
            for level in (0.05, 0.01):
                shares = weights[below <= level].sum(), weights[above <= level].sum()
                exact[n, discordant, limit, level] = tuple(share / level for share in shares)
    assert max(map(max, exact.values())) <= 1
    typical = [min(share) for (n, rate, _, _), share in exact.items() if n >= 1000 and rate >= 0.1]
    assert min(typical) >= 0.7


def test_simulated_jobs_pass_as_often_as_the_enumeration_says() -> None:
    rng = np.random.default_rng(3)
    shares = {}
    for n, discordant, limit in itertools.product(SIZES, DISCORDANT, LIMITS):
        if discordant >= limit:
            first, second = draw_jobs(n, discordant, limit, rng)
            passing = (score_p_value(first, second, n, limit) <= 0.05).mean()
            shares[n, discordant, limit] = float(passing)
    print({key: f"{share:.1%}" for key, share in shares.items()})  # noqa: T201
    # 10,000 jobs show a share of 5 % within .0065, three standard errors.
    assert max(shares.values()) <= 0.0565


@pytest.mark.parametrize("increase", [0.0, 0.002, 0.012])
@pytest.mark.parametrize("discordant", [0.02, 0.1])
def test_the_needed_images_decide_in_four_of_five_jobs(increase: float, discordant: float) -> None:
    limit = 0.005
    first = round(10_000 * (discordant + increase) / 2)
    second = round(10_000 * (discordant - increase) / 2)
    needed = count_needed_images(PairedErrors(first, second, 10_000), limit)
    assert needed is not None
    b, c = draw_jobs(needed, discordant, increase, np.random.default_rng(2))
    below = score_p_value(b, c, needed, limit) <= 0.05
    above = score_p_value(c, b, needed, -limit) <= 0.05
    decided = (above if increase > limit else below).mean()
    print(f"{needed} images decide in {decided:.1%} of jobs")  # noqa: T201
    assert 0.78 <= decided <= 0.85


def test_no_number_of_images_decides_an_increase_of_the_limit() -> None:
    assert count_needed_images(PairedErrors(10, 5, 1000), 0.005) is None
    assert count_needed_images(PairedErrors(5, 5, 1000), 1e-9) is None
    without = count_needed_images(PairedErrors(0, 0, 1000), 0.005)
    assert without is not None
    assert p_value_below(PairedErrors(0, 0, without), 0.005) < 0.05
