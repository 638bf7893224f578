"""Confidence intervals of measured errors."""

from __future__ import annotations

import math

from pruning.schemas.report import Estimate, Unit

Z95 = 1.959963984540054


def binomial_interval(errors: int, n: int, confidence: float = 0.95) -> Estimate:
    """Exact (Clopper-Pearson) interval of an error rate: `errors` wrong of `n`.

    low = B(alpha/2; k, n-k+1), high = B(1-alpha/2; k+1, n-k), B the quantile of the beta
    distribution. Covers with at least `confidence` for every true rate. Clopper and Pearson,
    Biometrika 26 (1934).

    >>> estimate = binomial_interval(0, 100)
    >>> estimate.value, estimate.low, round(estimate.high, 4)
    (0.0, 0.0, 0.0362)
    """
    from scipy.special import betaincinv

    if not 0 <= errors <= n or n < 1:
        raise ValueError(f"{errors} errors of {n}")
    tail = (1 - confidence) / 2
    # At the ends a parameter of the beta distribution would be 0, which scipy answers with nan.
    low, high = 0.0, 1.0
    if errors > 0:
        low = float(betaincinv(errors, n - errors + 1, tail))
    if errors < n:
        high = float(betaincinv(errors + 1, n - errors, 1 - tail))
    return Estimate(value=errors / n, low=low, high=high, n=n, unit="fraction")


def upper_limit(errors: int, n: int, delta: float) -> float:
    """The exact upper limit of an error rate that fails with probability `delta` at most.

    high = B(1 - delta; k + 1, n - k), the one-sided Clopper-Pearson limit; 1 without samples.

    >>> round(upper_limit(0, 100, 0.05), 4), upper_limit(3, 3, 0.05), upper_limit(0, 0, 0.05)
    (0.0295, 1.0, 1.0)
    """
    from scipy.special import betaincinv

    if errors == n:
        return 1.0
    return float(betaincinv(errors + 1, n - errors, 1 - delta))


def difference_interval(only_first: int, only_second: int, n: int, z: float = Z95) -> Estimate:
    """Error of a first network minus that of a second on the same `n` images, from the images that
    only one of them gets wrong.

    value = (b - c) / n with b = `only_first`, c = `only_second`. The interval is the adjusted Wald
    interval for paired proportions: p1 = (b+1)/(n+2), p2 = (c+1)/(n+2), p1 - p2 +- z sqrt((p1 + p2
    - (p1 - p2)^2) / (n+2)). Bonett and Price, British Journal of Mathematical and Statistical
    Psychology 65 (2012).

    >>> difference_interval(3, 1, 100).value
    0.02
    """
    if min(only_first, only_second) < 0 or only_first + only_second > n or n < 1:
        raise ValueError(f"{only_first} and {only_second} of {n}")
    p1 = (only_first + 1) / (n + 2)
    p2 = (only_second + 1) / (n + 2)
    width = z * math.sqrt((p1 + p2 - (p1 - p2) ** 2) / (n + 2))
    value = (only_first - only_second) / n
    return Estimate(
        value=value,
        low=max(-1.0, min(value, p1 - p2 - width)),
        high=min(1.0, max(value, p1 - p2 + width)),
        n=n,
        unit="points",
    )


def mean_interval(
    total: float, total_squares: float, n: int, *, z: float = Z95, unit: Unit | None = None
) -> Estimate:
    """Mean of n samples with its normal interval, from the sums of the samples and of their
    squares, in the unit of the samples.

    mean +- z s / sqrt(n), s the sample standard deviation; a single sample has no interval.
    """
    value = total / n
    if n == 1:
        return Estimate(value=value, n=1, unit=unit)
    variance = max(0.0, total_squares / n - value**2) * n / (n - 1)
    width = z * math.sqrt(variance / n)
    return Estimate(value=value, low=value - width, high=value + width, n=n, unit=unit)


def bounded_mean_interval(
    total: float,
    total_squares: float,
    *,
    n: int,
    least: float = 0.0,
    most: float = 1.0,
    z: float = Z95,
    unit: Unit | None = None,
) -> Estimate:
    """Mean of n samples that lie in [least, most], with Student's interval cut at these limits.

    mean +- t s / sqrt(n), s the sample standard deviation, t the quantile of n - 1 degrees of
    freedom at the level of z in the normal distribution. A single sample tells nothing about the
    spread: its interval is [least, most].

    >>> bounded_mean_interval(1.0, 0.5, n=2).value
    0.5
    >>> bounded_mean_interval(0.25, 0.0625, n=1).low
    0.0
    """
    from scipy.special import ndtr, stdtrit

    value = min(most, max(least, total / n))
    if n == 1:
        return Estimate(value=value, low=least, high=most, n=1, unit=unit)
    variance = max(0.0, total_squares / n - (total / n) ** 2) * n / (n - 1)
    quantile = float(stdtrit(n - 1, ndtr(z)))
    width = quantile * math.sqrt(variance / n)
    return Estimate(
        value=value,
        low=max(least, value - width),
        high=min(most, value + width),
        n=n,
        unit=unit,
    )
