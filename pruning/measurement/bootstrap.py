"""Bootstrap draws of errors, percentile intervals of them, and regression lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from pruning.schemas.report import Estimate, Unit

RESAMPLES = 1000
PAIRS = 10_000
"""The number of resamples of a regression, as the plotting library of the paper draws."""


def resample_errors(wrong: Tensor, generator: Generator, resamples: int = RESAMPLES) -> Tensor:
    """The errors of networks on bootstrap samples of the images, float64 (networks, resamples).

    `wrong` is bool (networks, images), or the error of each network on each image. A column of the
    result belongs to one draw with replacement, the same one for all networks.

    >>> resample_errors(torch.tensor([[True, True], [False, False]]), torch.Generator(), 3)
    tensor([[1., 1., 1.],
            [0., 0., 0.]], dtype=torch.float64)
    """
    n = wrong.shape[1]
    errors = []
    # A hundred samples at a time bound the memory that large test sets take.
    for start in range(0, resamples, 100):
        drawn = torch.randint(n, (min(100, resamples - start), n), generator=generator)
        errors.append(wrong.double() @ count_draws(drawn).T / n)
    return torch.cat(errors, 1)


def count_draws(drawn: Tensor) -> Tensor:
    """The number of times that each sample draws each of n individuals, float64 (samples, n), from
    indices of that shape.

    >>> count_draws(torch.tensor([[0, 0, 2]]))
    tensor([[2., 0., 1.]], dtype=torch.float64)
    """
    counts = torch.zeros(drawn.shape, dtype=torch.float64)
    return counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))


def central_limits(draws: Tensor) -> tuple[float, float]:
    """The limits between which the middle 95 % of bootstrap draws lie.

    >>> central_limits(torch.arange(41.0))
    (1.0, 39.0)
    """
    levels = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = torch.quantile(draws.double(), levels).tolist()
    return low, high


def percentile_interval(value: float, draws: Tensor, n: int, unit: Unit | None = None) -> Estimate:
    """A value with the 95 % percentile interval of its bootstrap draws, which is widened to hold
    the value; a single image has no interval.
    """
    if n < 2:
        return Estimate(value=value, n=n, unit=unit)
    return enclose_value(value, draws, n, unit)


def enclose_value(value: float, draws: Tensor, n: int, unit: Unit | None = None) -> Estimate:
    """A value with the 95 % percentile interval of any number of draws, widened to hold the
    value.
    """
    low, high = central_limits(draws)
    return Estimate(value=value, low=min(low, value), high=max(high, value), n=n, unit=unit)


@dataclass(frozen=True)
class Line:
    """y = slope x through the origin, with bootstrap draws of the slope over the points and over
    the images behind them.
    """

    slope: Estimate
    draws: Tensor

    @staticmethod
    def fit(
        x: Sequence[float],
        y: Sequence[float],
        generator: Generator,
        resampled: Tensor | None = None,
    ) -> Line | None:
        """slope = sum x y / sum x^2 by least squares, with the percentile interval over resampled
        points; None without x.

        `resampled` (points, resamples) are draws of `y` over images: each resample of the points
        takes the next of them, so that points and images are resampled together.

        >>> line = Line.fit([1.0, 2.0], [2.0, 4.0], torch.Generator())
        >>> line.slope.value, line.slope.low, line.slope.high
        (2.0, 2.0, 2.0)
        """
        across = torch.tensor(x, dtype=torch.float64)
        up = torch.tensor(y, dtype=torch.float64)
        n = len(across)
        if not n or not bool((across != 0).any()):
            return None
        drawn = torch.randint(n, (PAIRS, n), generator=generator)
        squares = across[drawn].square().sum(1)
        heights = up[drawn]
        if resampled is not None:
            columns = torch.arange(PAIRS) % resampled.shape[1]
            heights = resampled.double()[drawn, columns[:, None]]
        # A resample of points that all lie at x = 0 has no slope.
        draws = ((across[drawn] * heights).sum(1) / squares)[squares > 0]
        value = float((across * up).sum() / across.square().sum())
        return Line(percentile_interval(value, draws, n), draws)

    def at(self, x: float) -> Estimate:
        """The height of the line at x, with the band of the draws."""
        slope = self.slope
        if slope.low is None or slope.high is None:
            return Estimate(value=slope.value * x, n=slope.n)
        low, high = sorted((slope.low * x, slope.high * x))
        return Estimate(value=slope.value * x, low=low, high=high, n=slope.n)
