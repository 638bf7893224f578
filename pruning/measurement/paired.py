"""Tests and limits of the difference between the errors of two networks on the same images.

Only the discordant images tell: b that the first network alone gets wrong, and c that the second
alone does, of n. The increase is delta = p_b - p_c, estimated by (b - c) / n. `p_value_below` and
`p_value_above` test it against a limit, `limit_increase` holds every limit that they do not
reject.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
CONFIDENCE = 0.95
POWER = 0.8
MOST_IMAGES = 10**9
"""More images than this are told as none: no dataset decides."""
_HALVINGS = 44
"""Steps of the search for a limit, which halve the interval that holds it: 2 to 1e-13."""


@dataclass(frozen=True)
class PairedErrors:
    """The images that only one of two networks gets wrong, of the same n images."""

    only_first: int
    """Images that the first network (the pruned one) alone gets wrong."""
    only_second: int
    """Images that the second network (the reference) alone gets wrong."""
    n: int

    def __post_init__(self) -> None:
        least = min(self.only_first, self.only_second)
        if least < 0 or self.n < 1 or self.only_first + self.only_second > self.n:
            raise ValueError(f"{self.only_first} and {self.only_second} of {self.n} images")

    @property
    def increase(self) -> float:
        """Error of the first network minus that of the second: (b - c) / n."""
        return (self.only_first - self.only_second) / self.n

    @property
    def discordant(self) -> int:
        """Images that exactly one of the two networks gets wrong: b + c."""
        return self.only_first + self.only_second


def count_paired_errors(first_wrong: Any, second_wrong: Any) -> PairedErrors:
    """Return the counts of two boolean arrays or tensors (images,), in which True is wrong.

    >>> count_paired_errors([True, True, False], [False, True, False])
    PairedErrors(only_first=1, only_second=0, n=3)
    """
    first = np.asarray(first_wrong)
    second = np.asarray(second_wrong)
    if first.dtype != np.bool_ or second.dtype != np.bool_ or first.shape != second.shape:
        raise ValueError(
            f"two boolean arrays of one shape are needed, not {first.dtype} {first.shape} and "
            f"{second.dtype} {second.shape}"
        )
    return PairedErrors(
        only_first=int((first & ~second).sum()),
        only_second=int((second & ~first).sum()),
        n=first.size,
    )


def limit_increase(errors: PairedErrors, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the lower and the upper limit of the increase, each one-sided at `confidence`.

    The upper limit is the smallest one that `p_value_below` rejects at 1 - `confidence`, the lower
    one the largest that `p_value_above` rejects: an increase is proven below a limit exactly where
    the upper limit lies below it.

    >>> low, high = limit_increase(PairedErrors(12, 4, 1000))
    >>> round(low, 4), round(high, 4)
    (0.0005, 0.0167)
    """
    low, high = find_limits(errors.only_first, errors.only_second, errors.n, confidence)
    return float(low), float(high)


def p_value_below(errors: PairedErrors, limit: float) -> float:
    """Return the p-value against "the increase is at least `limit`": small where it is proven to
    lie below.

    >>> round(p_value_below(PairedErrors(10, 10, 10_000), 0.005), 5)
    0.0
    """
    return float(score_p_value(errors.only_first, errors.only_second, errors.n, limit))


def p_value_above(errors: PairedErrors, limit: float) -> float:
    """Return the p-value against "the increase is at most `limit`": small where it is proven to
    lie above.

    >>> p_value_above(PairedErrors(0, 0, 100), 0.0)
    1.0
    """
    return float(score_p_value(errors.only_second, errors.only_first, errors.n, -limit))


def mcnemar_p_value(errors: PairedErrors) -> float:
    """Return the exact, two-sided p-value against "both networks err equally often".

    p = min(1, 2 P(X <= min(b, c))), X binomial of b + c trials at 1/2. McNemar, Psychometrika 12
    (1947).

    >>> mcnemar_p_value(PairedErrors(5, 0, 100)), mcnemar_p_value(PairedErrors(3, 3, 100))
    (0.0625, 1.0)
    """
    from scipy.special import bdtr

    if errors.discordant == 0:
        return 1.0
    tail = bdtr(min(errors.only_first, errors.only_second), errors.discordant, 0.5)
    return min(1.0, 2 * float(tail))


def adjust_holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values that hold together: those at most alpha err at all with probability alpha.

    The i-th smallest of m, counted from 0, becomes the largest of (m - k) p_k over k <= i, at most
    1. Holm, Scandinavian Journal of Statistics 6 (1979).

    >>> adjust_holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(1.0, largest)
    return adjusted


def count_needed_images(
    errors: PairedErrors, limit: float, power: float = POWER, confidence: float = CONFIDENCE
) -> int | None:
    """Return how many images in all would decide whether the increase lies below or above a limit,
    with probability `power`, were the increase and the discordant rates those at hand.

    n solves n |delta - limit| - 1 = sqrt(n) (z_confidence s_0 + z_power s_1) with s^2 = p_b + p_c -
    delta^2, s_1 at the rates (b + 1/2) / (n + 1) and (c + 1/2) / (n + 1), s_0 at those nearest to
    them whose increase is the limit; the 1 is the correction for continuity of the test. None where
    the increase equals the limit, or no dataset is as large.

    >>> count_needed_images(PairedErrors(10, 10, 1000), 0.005)
    5758
    """
    p_first = (errors.only_first + 0.5) / (errors.n + 1)
    p_second = (errors.only_second + 0.5) / (errors.n + 1)
    gap = abs(errors.increase - limit)
    if gap == 0:
        return None
    null = float(_restrict_rate(np.array(p_first), np.array(p_second), limit))
    deviation_null = math.sqrt(max(0.0, 2 * null + limit - limit**2))
    deviation = math.sqrt(p_first + p_second - (p_first - p_second) ** 2)
    normal = NormalDist()
    spread = normal.inv_cdf(confidence) * deviation_null + normal.inv_cdf(power) * deviation
    root = (spread + math.sqrt(spread**2 + 4 * gap)) / (2 * gap)
    images = math.ceil(root**2)
    return images if images <= MOST_IMAGES else None


def find_limits(
    only_first: ArrayLike, only_second: ArrayLike, n: ArrayLike, confidence: float = CONFIDENCE
) -> tuple[Floats, Floats]:
    """Return arrays of the limits that `limit_increase` describes, from arrays of counts."""
    high = _find_upper_limit(only_first, only_second, n, confidence)
    low = -_find_upper_limit(only_second, only_first, n, confidence)
    return low, high


def score_p_value(
    only_first: ArrayLike,
    only_second: ArrayLike,
    n: ArrayLike,
    limit: ArrayLike,
    correction: float = 1.0,
) -> Floats:
    """Return the p-values against "the increase is at least the limit", from arrays of counts.

    p = Phi((b - c - n limit + correction) / sqrt(n (2 q + limit - limit^2))), q the most likely p_c
    among rates whose increase is the limit: the score test of Tango, Statistics in Medicine 17
    (1998), equations 4 and 7, with a correction for continuity. The correction is 1, half the step
    of b - c where b + c is given, so that at limit 0 the test agrees with the exact binomial one.
    Below a negative limit the distribution has a heavier tail than the normal one where nearly all
    discordant images are c: there p is at least the exact P(X >= c - b), X binomial of n trials at
    -limit. The size at level .05 or .01 is at most nominal for n from 5 to 10,000 (see the tests).
    """
    from scipy.special import betainc, ndtr

    b, c, images, level = (
        np.asarray(values, np.float64) for values in (only_first, only_second, n, limit)
    )
    rate = _restrict_rate(b / images, c / images, level)
    variance = images * np.maximum(0.0, 2 * rate + level - level**2)
    excess = b - c - images * level + correction
    certain = variance <= 0
    z = excess / np.sqrt(np.where(certain, 1.0, variance))
    p_value = np.where(certain, np.where(excess >= 0, 1.0, 0.0), ndtr(z))
    opposite = np.where(level < 0, -level, 0.0)
    # The probability of at least k of n is I_p(k, n - k + 1), the incomplete beta function.
    k = np.maximum(1.0, c - b)
    tail = np.where(c > b, betainc(k, images - k + 1, opposite), 1.0)
    result: Floats = np.where(level < 0, np.maximum(p_value, tail), p_value)
    return result


def _restrict_rate(p_first: Floats, p_second: Floats, limit: ArrayLike) -> Floats:
    """The most likely rate of images that only the second network gets wrong, where the increase is
    the limit: the root of 2 q^2 + B q - p_c limit (1 - limit), B = -p_b - p_c + (2 - p_b + p_c)
    limit.
    """
    level = np.asarray(limit, np.float64)
    linear = -p_first - p_second + (2 - p_first + p_second) * level
    constant = p_second * level * (1 - level)
    root = np.sqrt(np.maximum(0.0, linear**2 + 8 * constant))
    return np.clip((root - linear) / 4, np.maximum(0.0, -level), (1 - level) / 2)


def _find_upper_limit(
    only_first: ArrayLike, only_second: ArrayLike, n: ArrayLike, confidence: float
) -> Floats:
    """The smallest limit that is rejected; the p-value falls from the observed increase to 1."""
    b, c, images = np.broadcast_arrays(
        *(np.asarray(values, np.float64) for values in (only_first, only_second, n))
    )
    low: Floats = (b - c) / images
    high: Floats = np.ones_like(low)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        rejected = score_p_value(b, c, images, middle) <= 1 - confidence
        high = np.where(rejected, middle, high)
        low = np.where(rejected, low, middle)
    return high
