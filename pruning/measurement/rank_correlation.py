"""Rank correlation: Spearman's rho with ties, its bootstrap interval and a permutation test."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from pruning import wording
from pruning.measurement.bootstrap import central_limits
from pruning.schemas.report import Estimate

FEWEST = 4
"""With fewer individuals a rank correlation gets no interval."""
ALPHA = 0.05
"""The largest p-value of a permutation test that is evidence of an order."""
RESAMPLES = 2000
DRAWS = 10
"""The most times that the resamples are drawn, to make up for those with a constant ranking."""


def rank_from_smallest(values: Tensor) -> Tensor:
    """Ranks 1..n along the last dimension, the smallest first; ties share the mean of their ranks.

    >>> rank_from_smallest(torch.tensor([0.3, 0.1, 0.3, 0.2])).tolist()
    [3.5, 1.0, 3.5, 2.0]
    """
    below = (values.unsqueeze(-2) < values.unsqueeze(-1)).sum(-1)
    equal = (values.unsqueeze(-2) == values.unsqueeze(-1)).sum(-1)
    return below + (equal.to(torch.float64) + 1) / 2


def compute_spearman(x: Tensor, y: Tensor) -> Tensor:
    """Spearman's rho of x and y, (..., strata, n): ranks within each stratum, correlated over all
    strata; nan if a ranking is constant.

    rho = sum a b / sqrt(sum a^2 sum b^2) with a, b the ranks less their mean (n + 1) / 2, so one
    stratum gives Pearson's correlation of the average ranks. Spearman, American Journal of
    Psychology 15 (1904).

    >>> x = torch.tensor([[1.0, 2.0, 4.0, 3.0]])
    >>> float(compute_spearman(x, torch.tensor([[1.0, 2.0, 3.0, 4.0]])))
    0.8
    """
    both = (-2, -1)  # strata and individuals
    mean_rank = (x.shape[-1] + 1) / 2
    a = rank_from_smallest(x) - mean_rank
    b = rank_from_smallest(y) - mean_rank
    squares = (a * a).sum(both) * (b * b).sum(both)
    return (a * b).sum(both) / squares.sqrt()


def estimate_spearman(
    x: Tensor, y: Tensor, generator: Generator, resamples: int = RESAMPLES
) -> Estimate | None:
    """Spearman's rho of x and y, (strata, n), with a 95 % percentile bootstrap interval over the n
    individuals; None where a ranking is constant.

    An individual is drawn with all its strata. A resample in which a ranking is constant has no rho
    and is drawn again; where ten times as many draws do not reach `resamples`, or n < 4, there is
    no interval. Efron, Annals of Statistics 7 (1979).

    >>> x = torch.arange(6.0)[None]
    >>> estimate_spearman(x, x**2, torch.Generator().manual_seed(0))
    Estimate(value=1.0, low=1.0, high=1.0, n=6, unit='correlation')
    """
    n = x.shape[-1]
    rho = float(compute_spearman(x, y))
    if math.isnan(rho):
        return None
    rho = _remove_rounding(rho)
    if n < FEWEST:
        return Estimate(value=rho, n=n, unit="correlation")
    draws = torch.empty(0, dtype=torch.float64)
    for _ in range(DRAWS):
        drawn = torch.randint(n, (resamples, n), generator=generator)
        values = _correlate_rows(x, y, drawn, drawn)
        draws = torch.cat([draws, values[~values.isnan()]])
        if len(draws) >= resamples:
            low, high = central_limits(draws[:resamples])
            return Estimate(
                value=rho,
                low=_remove_rounding(low),
                high=_remove_rounding(high),
                n=n,
                unit="correlation",
            )
    return Estimate(value=rho, n=n, unit="correlation")


def permutation_p_value(
    x: Tensor, y: Tensor, generator: Generator, permutations: int = 10_000
) -> float:
    """The probability of a |rho| at least as large when y is assigned to the individuals at random
    (two-sided, Monte Carlo).

    p = (1 + #{|rho_b| >= |rho|}) / (1 + permutations); an individual moves with all its strata. It
    guards the bootstrap, which errs for few individuals: of the 24 orders of four individuals, 2
    are as good as the perfect one.

    >>> x = torch.arange(4.0)[None]
    >>> 0.07 < permutation_p_value(x, x, torch.Generator().manual_seed(0)) < 0.1
    True
    """
    n = x.shape[-1]
    a = rank_from_smallest(x) - (n + 1) / 2
    b = rank_from_smallest(y) - (n + 1) / 2
    orders = torch.rand(permutations, n, generator=generator).argsort(-1)
    # The ranks move with the values, and the denominator of rho stays.
    products = torch.einsum("si,spi->p", a, b[:, orders])
    as_large = products.abs() >= (a * b).sum().abs() - 1e-9 * n**3  # free of rounding
    return (1 + int(as_large.sum())) / (1 + permutations)


def explain_no_evidence(
    rho: Estimate | None, p: float | None, n: int, noun: str, fewest: int = FEWEST
) -> str | None:
    """Why a rank correlation over `n` individuals (`noun`, plural) is no evidence of an order; None
    where it is.

    Evidence takes `fewest` individuals, an interval without 0 and a permutation test at 5 %.

    >>> explain_no_evidence(Estimate(value=0.9, low=0.5, high=1.0), 0.01, 6, "criteria")
    >>> explain_no_evidence(Estimate(value=0.9), None, 3, "criteria")
    'no evidence: too few criteria (3, at least 4 are needed)'
    """
    if n < fewest:
        return f"no evidence: too few {noun} ({n}, at least {fewest} are needed)"
    if rho is None:
        return "no evidence: a ranking is constant"
    if rho.low is None or rho.high is None or p is None:
        return "no evidence: too many ties for an interval"
    if rho.low <= 0 <= rho.high:
        return "no evidence of an order"
    if p > ALPHA:
        return f"no evidence: {wording.percent(p, 0)} of random orders are as good"
    return None


def _correlate_rows(x: Tensor, y: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The rho of x[:, first] against y[:, second] for each row of the indices, (rows,)."""
    values = []
    # Ranking compares all pairs of individuals: a thousand rows at a time bound the memory.
    for start in range(0, len(first), 1000):
        rows = slice(start, start + 1000)
        x_drawn = x[:, first[rows]].transpose(0, 1)
        y_drawn = y[:, second[rows]].transpose(0, 1)
        values.append(compute_spearman(x_drawn, y_drawn))
    return torch.cat(values)


def _remove_rounding(rho: float) -> float:
    """The correlation within [-1, 1] and free of rounding noise."""
    return max(-1.0, min(1.0, round(rho, 12)))
