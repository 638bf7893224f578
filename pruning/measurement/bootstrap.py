"""Bootstrap draws of errors, percentile intervals of them, and regression lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from pruning.schemas.report import Estimate

RESAMPLES = 1000
PAIRS = 10_000
"""Resamples of a regression, as the plotting library of the paper draws."""


def resample_errors(wrong: Tensor, generator: Generator, resamples: int = RESAMPLES) -> Tensor:
    """The errors of networks on so many bootstrap samples of the images, the same ones for all:
    (networks, resamples).

    `wrong` is bool (networks, images), or the error of each. A column of the result belongs to one
    draw with replacement.

    >>> resample_errors(torch.tensor([[True, True], [False, False]]), torch.Generator(), 3)
    tensor([[1., 1., 1.],
            [0., 0., 0.]], dtype=torch.float64)
    """
    n = wrong.shape[1]
    found = []
    for start in range(0, resamples, 100):
        drawn = torch.randint(n, (min(100, resamples - start), n), generator=generator)
        counts = torch.zeros(len(drawn), n, dtype=torch.float64)
        counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
        found.append(wrong.double() @ counts.T / n)
    return torch.cat(found, 1)


def percentile_interval(value: float, draws: Tensor, n: int) -> Estimate:
    """A value with the percentile interval of its bootstrap draws, 95 %, that holds the value; none
    of a single image.
    """
    if n < 2:
        return Estimate(value=value, n=n)
    low, high = torch.quantile(
        draws.double(), torch.tensor([0.025, 0.975], dtype=torch.float64)
    ).tolist()
    return Estimate(value=value, low=min(low, value), high=max(high, value), n=n)


@dataclass(frozen=True)
class Line:
    """y = slope x through the origin, with bootstrap draws of the slope over the points."""

    slope: Estimate
    draws: Tensor

    @staticmethod
    def fit(x: Sequence[float], y: Sequence[float], generator: Generator) -> Line | None:
        """slope = sum x y / sum x^2 by least squares, with the percentile interval over resampled
        points; None without x.

        >>> line = Line.fit([1.0, 2.0], [2.0, 4.0], torch.Generator())
        >>> line.slope.value, line.slope.low, line.slope.high
        (2.0, 2.0, 2.0)
        """
        a, b = torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)
        if not len(a) or not bool((a != 0).any()):
            return None
        drawn = torch.randint(len(a), (PAIRS, len(a)), generator=generator)
        squares = a[drawn].square().sum(1)
        draws = ((a[drawn] * b[drawn]).sum(1) / squares)[squares > 0]
        value = float((a * b).sum() / a.square().sum())
        return Line(
            percentile_interval(value, draws, len(a)) if len(a) > 1 else Estimate(value=value, n=1),
            draws,
        )

    def at(self, x: float) -> Estimate:
        """The line there, with the band of the draws."""
        s = self.slope
        if s.low is None or s.high is None:
            return Estimate(value=s.value * x, n=s.n)
        low, high = sorted((s.low * x, s.high * x))
        return Estimate(value=s.value * x, low=low, high=high, n=s.n)
