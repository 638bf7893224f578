"""Spearman's rho, its bootstrap and its permutation test."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import binomtest, spearmanr

from pruning.measurement.rank_correlation import (
    FEWEST,
    compute_spearman,
    estimate_spearman,
    permutation_p_value,
    rank_from_smallest,
)
from pruning.seeding import generator


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("values", [3, 30])
def test_spearman_is_scipys_with_and_without_ties(seed: int, values: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    x, y = torch.randint(values, (2, 9), generator=rng).double()
    assert float(compute_spearman(x[None], y[None])) == pytest.approx(
        spearmanr(x, y).statistic, abs=1e-12
    )
    smaller = [1 + sum(b < a for b in x) + (sum(b == a for b in x) - 1) / 2 for a in x]
    assert rank_from_smallest(x).tolist() == pytest.approx([float(rank) for rank in smaller])


def test_pooled_ranks_are_taken_within_each_target() -> None:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 3, 7, generator=rng, dtype=torch.float64)
    shifted = x + torch.tensor([[0.0], [10.0], [-5.0]])  # between targets everything may differ
    a, b = (torch.cat([rank_from_smallest(row) - 4 for row in values]) for values in (x, y))
    assert float(compute_spearman(shifted, y)) == pytest.approx(
        float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())
    )


def test_infinite_values_rank_last_and_constants_have_no_correlation() -> None:
    assert rank_from_smallest(torch.tensor([math.inf, 1.0, math.inf, 0.0])).tolist() == [
        3.5,
        2.0,
        3.5,
        1.0,
    ]
    assert estimate_spearman(torch.ones(1, 5), torch.rand(1, 5), generator(0, "x")) is None


def test_monotone_data_exclude_zero_and_too_few_have_no_interval() -> None:
    x = torch.arange(8.0)[None]
    up, down = (
        estimate_spearman(x, x.exp(), generator(0, "x")),
        estimate_spearman(x, -x, generator(0, "x")),
    )
    assert up is not None
    assert (up.value, up.low, up.high, up.n) == (1.0, 1.0, 1.0, 8)
    assert down is not None
    assert (down.value, down.low, down.high) == (-1.0, -1.0, -1.0)
    few = estimate_spearman(x[:, : FEWEST - 1], x[:, : FEWEST - 1], generator(0, "x"))
    assert few is not None
    assert (few.value, few.low, few.high) == (1.0, None, None)


def test_resamples_without_a_correlation_are_drawn_again() -> None:
    """Where one individual differs, a third of the resamples has a constant ranking."""
    x = torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0]])
    rho = estimate_spearman(x, x, generator(0, "x"))
    assert rho is not None
    assert (rho.low, rho.high) == (1.0, 1.0)


def test_the_bootstrap_is_seeded_and_its_quantiles_are_those_of_a_plain_loop() -> None:
    rng = torch.Generator().manual_seed(3)
    x, y = torch.rand(2, 1, 9, generator=rng, dtype=torch.float64)
    rho = estimate_spearman(x, y, generator(5, "a"), resamples=500)
    assert rho == estimate_spearman(x, y, generator(5, "a"), resamples=500)
    assert rho != estimate_spearman(x, y, generator(6, "a"), resamples=500)
    assert rho is not None
    samples = torch.randint(9, (500, 9), generator=generator(5, "a"))
    plain = [spearmanr(x[0, row], y[0, row]).statistic for row in samples]
    assert [rho.low, rho.high] == pytest.approx(
        torch.tensor(plain).quantile(torch.tensor([0.025, 0.975]).double())
    )


def test_of_independent_rankings_the_evidence_is_wrong_one_time_in_twenty() -> None:
    """Interval without 0 and permutation test together; the bootstrap alone errs for few
    individuals.
    """
    rng = torch.Generator().manual_seed(0)
    for n in (4, 5, 13):
        false = 0
        for _ in range(150):
            x, y = torch.rand(2, 1, n, generator=rng, dtype=torch.float64)
            rho = estimate_spearman(x, y, rng, resamples=500)
            assert rho is not None
            assert rho.low is not None
            assert rho.high is not None
            false += (
                not rho.low <= 0 <= rho.high
                and permutation_p_value(x, y, rng, permutations=500) <= 0.05
            )
        assert binomtest(false, 150, 0.05, alternative="greater").pvalue > 0.001, n


def test_the_permutation_test_counts_the_orders_that_are_as_good() -> None:
    x = torch.arange(5.0)[None]
    assert permutation_p_value(x, x, generator(0, "p")) == pytest.approx(2 / 120, abs=0.005)
    assert permutation_p_value(
        x, torch.tensor([[0.0, 1.0, 2.0, 4.0, 3.0]]), generator(0, "p")
    ) == pytest.approx(10 / 120, abs=0.01)
