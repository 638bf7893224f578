"""Paired tests by class or group, against direct counts and enumerations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, binomtest, norm

from pruning.measurement.intervals import difference_interval
from pruning.measurement.paired import PairedErrors
from pruning.measurement.subgroups import (
    compare_subgroups,
    find_detectable_increase,
    group_identical,
)


def draw_flags(seed: int, n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The errors of two networks, and one of three groups of each image, the last one small."""
    rng = torch.Generator().manual_seed(seed)
    first = torch.rand(n, generator=rng) < 0.4
    second = torch.rand(n, generator=rng) < 0.3
    codes = torch.randint(-1, 2, (n,), generator=rng)
    codes[:3] = 2
    return first, second, codes


def test_counts_and_tests_by_group_are_those_of_each_group_alone() -> None:
    first, second, codes = draw_flags(0, 200)
    subgroups = compare_subgroups(first, second, codes, 4)
    assert len(subgroups) == 4
    for code, subgroup in enumerate(subgroups[:3]):
        members = codes == code
        only_first = int((first & ~second)[members].sum())
        only_second = int((second & ~first)[members].sum())
        assert subgroup is not None
        assert subgroup.errors == PairedErrors(only_first, only_second, int(members.sum()))
        assert subgroup.tested == subgroup.errors
        expected = difference_interval(only_first, only_second, int(members.sum()), 1.96)
        estimate = subgroup.estimate_increase(1.96)
        assert estimate.model_dump() == pytest.approx(expected.model_dump())
        assert (subgroup.wrong_first, subgroup.wrong_second) == (
            int(first[members].sum()),
            int(second[members].sum()),
        )
        p_value = binomtest(only_first, max(1, only_first + only_second), 0.5).pvalue
        assert subgroup.p_value == pytest.approx(p_value if only_first + only_second else 1.0)
    assert subgroups[3] is None, "no image is in it"


def test_the_rest_is_that_of_the_same_column_and_its_variance_that_of_bonett_and_price() -> None:
    first, second, codes = draw_flags(1, 300)
    subgroup = compare_subgroups(first, second, codes, 3)[0]
    assert subgroup is not None
    moments = []
    for members in (codes == 0, (codes != 0) & (codes >= 0)):
        n = int(members.sum()) + 2
        p_first = (int((first & ~second)[members].sum()) + 1) / n
        p_second = (int((second & ~first)[members].sum()) + 1) / n
        variance = (p_first + p_second - (p_first - p_second) ** 2) / n
        moments.append((p_first - p_second, variance))
    (value, variance), (rest, rest_variance) = moments
    z = (value - rest) / math.sqrt(variance + rest_variance)
    assert subgroup.p_value_above_rest == pytest.approx(float(norm.sf(z)))


def test_a_group_of_all_images_has_no_rest() -> None:
    wrong = torch.arange(40) < 20
    subgroup = compare_subgroups(wrong, ~wrong & False, torch.zeros(40, dtype=torch.int64), 1)[0]
    assert subgroup is not None
    assert subgroup.p_value < 1e-4
    assert subgroup.p_value_above_rest == 1.0


def test_images_of_a_cluster_count_once() -> None:
    """Ten copies of an image tell no more than the image."""
    first, second, codes = draw_flags(2, 60)
    first_copies, second_copies, code_copies = (
        flags.repeat_interleave(10) for flags in (first, second, codes)
    )
    clusters = torch.arange(60).repeat_interleave(10)
    plain = compare_subgroups(first, second, codes, 3)
    copied = compare_subgroups(first_copies, second_copies, code_copies, 3, clusters)
    for alone, together in zip(plain, copied, strict=True):
        assert alone is not None
        assert together is not None
        assert together.errors == PairedErrors(
            10 * alone.errors.only_first, 10 * alone.errors.only_second, 10 * alone.errors.n
        )
        assert together.tested == alone.tested
        assert together.p_value == alone.p_value
        assert together.p_value_above_rest == pytest.approx(alone.p_value_above_rest)


def test_a_cluster_is_judged_by_what_most_of_its_images_do() -> None:
    first = torch.tensor([True, True, False, True, False])
    second = torch.tensor([False, False, True, False, True])
    clusters = torch.tensor([7, 7, 7, 3, 3])
    subgroup = compare_subgroups(first, second, torch.zeros(5, dtype=torch.int64), 1, clusters)[0]
    assert subgroup is not None
    assert subgroup.errors == PairedErrors(3, 2, 5)
    assert subgroup.tested == PairedErrors(1, 0, 2)
    assert subgroup.p_value == 1.0, "one cluster, and a tie"


def test_identical_images_are_a_cluster() -> None:
    images = torch.randint(0, 255, (6, 3, 4, 4), dtype=torch.uint8)
    images[4] = images[1]
    clusters = group_identical([images[:2], images[2:]])
    assert clusters is not None
    assert clusters.tolist() == [0, 1, 2, 3, 1, 5]
    assert group_identical([images[:4]]) is None


@pytest.mark.parametrize(("n", "rate", "level"), [(12, 0.0, 0.05), (24, 0.1, 0.1)])
def test_the_detectable_increase_has_the_power_by_enumeration(
    n: int, rate: float, level: float
) -> None:
    increase = find_detectable_increase(n, rate, level)
    assert increase is not None

    def enumerate_power(increase: float) -> float:
        total = 0.0
        for b in range(n + 1):
            for c in range(n + 1 - b):
                p_value = binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
                if b > c and p_value <= level:
                    rates = (rate + increase, rate, 1 - 2 * rate - increase)
                    total += float(
                        binom.pmf(b, n, rates[0])
                        * binom.pmf(c, n - b, min(1.0, rates[1] / max(1e-12, 1 - rates[0])))
                    )
        return total

    assert enumerate_power(increase) == pytest.approx(0.8, abs=2e-3)


def test_too_few_images_detect_nothing() -> None:
    assert find_detectable_increase(5, 0.0, 0.01) is None
    assert find_detectable_increase(0, 0.0, 0.05) is None


def test_the_detectable_increase_falls_with_images_and_rises_with_noise() -> None:
    sizes = [find_detectable_increase(n, 0.05, 0.001) or np.inf for n in (50, 200, 1000, 20_000)]
    assert sizes == sorted(sizes, reverse=True)
    noises = [find_detectable_increase(500, rate, 0.001) or 0.0 for rate in (0.0, 0.05, 0.2)]
    assert noises == sorted(noises)
