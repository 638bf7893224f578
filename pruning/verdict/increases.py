"""Increases of an error and their tests, from paired counts of images or an estimate with an
interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

from pruning.measurement import crossed_limits
from pruning.measurement.intervals import Z95
from pruning.measurement.paired import (
    MOST_IMAGES,
    POWER,
    PairedErrors,
    count_needed_images,
    limit_increase,
    p_value_below,
    score_p_value,
)
from pruning.schemas.estimates import Estimate
from pruning.schemas.verdicts import CrossedVariance, Outcome, PairedCounts

FAIL_CONFIDENCE = 0.75
"""The one-sided confidence at which an increase counts as beyond a limit.

To pass is a promise, and needs the confidence that the job asks for; to fail is a refusal, and asks
for less. An increase of exactly the limit fails in about a quarter of jobs and passes in 5 % at
most; one that lies two standard errors beyond the limit fails in more than 90 %, and one that lies
a standard error below it fails in 5 %.
"""


class Increase(Protocol):
    """An increase of an error, with its tests against a limit."""

    @property
    def value(self) -> float:
        """The increase as measured."""

    @property
    def images(self) -> int | None:
        """The number of images behind it."""

    @property
    def replicates(self) -> int:
        """The number of runs behind it."""

    def compute_limits(self, confidence: float) -> tuple[float, float]:
        """The lower and the upper limit, each one-sided at `confidence`."""

    def p_value_below(self, limit: float) -> float:
        """The p-value against "the increase is at least the limit"."""

    def p_value_beyond(self, limit: float) -> float:
        """The p-value against "the increase is at most the limit", without a correction for
        continuity.
        """

    def count_needed(self, limit: float, confidence: float) -> int | None:
        """The images in all that would prove on which side of the limit it lies."""


@dataclass(frozen=True)
class PairedIncrease:
    """An increase of the share of images that a network gets wrong, paired with a reference."""

    errors: PairedErrors
    replicates: int = 1

    @property
    def value(self) -> float:
        """The increase as measured."""
        return self.errors.increase

    @property
    def images(self) -> int:
        """The number of images behind it."""
        return self.errors.n

    def compute_limits(self, confidence: float) -> tuple[float, float]:
        """The limits of the score test for paired proportions."""
        return limit_increase(self.errors, confidence)

    def p_value_below(self, limit: float) -> float:
        """The p-value of the score test for paired proportions."""
        return p_value_below(self.errors, limit)

    def p_value_beyond(self, limit: float) -> float:
        """The p-value of the same test without its correction."""
        errors = self.errors
        p_value = score_p_value(errors.only_second, errors.only_first, errors.n, -limit, 0.0)
        return float(p_value)

    def count_needed(self, limit: float, confidence: float) -> int | None:
        """The images in all, from the discordant rates at hand."""
        return count_needed_images(self.errors, limit, POWER, confidence)


@dataclass(frozen=True)
class NormalIncrease:
    """An increase that is known by its value and standard error alone."""

    value: float
    deviation: float
    images: int | None
    replicates: int = 1

    def compute_limits(self, confidence: float) -> tuple[float, float]:
        """Value +- z standard errors."""
        width = NormalDist().inv_cdf(confidence) * self.deviation
        return self.value - width, self.value + width

    def p_value_below(self, limit: float) -> float:
        """Phi((value - limit) / standard error)."""
        return NormalDist().cdf((self.value - limit) / self.deviation)

    def p_value_beyond(self, limit: float) -> float:
        """Phi((limit - value) / standard error)."""
        return NormalDist().cdf((limit - self.value) / self.deviation)

    def count_needed(self, limit: float, confidence: float) -> int | None:
        """The images in all: n (z_confidence + z_power)^2 (standard error / distance)^2."""
        gap = abs(self.value - limit)
        if self.images is None or gap == 0:
            return None
        normal = NormalDist()
        z = normal.inv_cdf(confidence) + normal.inv_cdf(POWER)
        needed = self.images * (z * self.deviation / gap) ** 2
        return math.ceil(needed) if needed <= MOST_IMAGES else None


@dataclass(frozen=True)
class ReplicatedIncrease:
    """A mean increase over replicates and images."""

    value: float
    variance: CrossedVariance

    @property
    def images(self) -> int | None:
        """The number of images that every replicate sees."""
        return self.variance.images or None

    @property
    def replicates(self) -> int:
        """The number of replicates."""
        return self.variance.replicates

    def compute_limits(self, confidence: float) -> tuple[float, float]:
        """The limits for other images and other seeds."""
        low, high = crossed_limits.compute_limits(self.value, self.variance, confidence)
        return low, min(high, 1.0)

    def p_value_below(self, limit: float) -> float:
        """The level at which the upper limit meets the limit."""
        return crossed_limits.p_value_below(self.value, self.variance, limit)

    def p_value_beyond(self, limit: float) -> float:
        """The level at which the lower limit meets the limit."""
        return crossed_limits.p_value_above(self.value, self.variance, limit)

    def count_needed(self, limit: float, confidence: float) -> int | None:
        """The images in all, with as many replicates."""
        return crossed_limits.count_needed_images(self.value, self.variance, limit, confidence)


@dataclass(frozen=True)
class WorstIncrease:
    """The largest increase over groups of the images."""

    groups: tuple[Increase, ...]

    @property
    def value(self) -> float:
        """The largest increase as measured."""
        return max(group.value for group in self.groups)

    @property
    def images(self) -> int:
        """The number of images of all groups."""
        return sum(group.images or 0 for group in self.groups)

    @property
    def replicates(self) -> int:
        """The number of runs behind every group."""
        return min(group.replicates for group in self.groups)

    def compute_limits(self, confidence: float) -> tuple[float, float]:
        """The largest lower limit, each at 1 - (1 - confidence) / number of groups, and the largest
        upper limit at `confidence`.
        """
        shared = 1 - (1 - confidence) / len(self.groups)
        low = max(group.compute_limits(shared)[0] for group in self.groups)
        return low, max(group.compute_limits(confidence)[1] for group in self.groups)

    def p_value_below(self, limit: float) -> float:
        """The largest p-value: all groups must lie below, so that none has to be corrected for the
        others (Berger, Technometrics 24, 1982).
        """
        return max(group.p_value_below(limit) for group in self.groups)

    def p_value_beyond(self, limit: float) -> float:
        """The smallest p-value times the number of groups (Bonferroni)."""
        p_values = [group.p_value_beyond(limit) for group in self.groups]
        return min(1.0, len(p_values) * min(p_values))

    def count_needed(self, limit: float, confidence: float) -> int | None:
        """The images in all that would decide the least certain group, were its share of them as
        it is.
        """
        group = max(self.groups, key=lambda group: group.p_value_below(limit))
        needed = group.count_needed(limit, confidence)
        if needed is None or group.images is None:
            return None
        return math.ceil(needed * self.images / group.images)


def read_increase(
    estimate: Estimate,
    counts: PairedCounts | None = None,
    variance: CrossedVariance | None = None,
) -> Increase | None:
    """Return an increase from its variance over replicates and images, or from the counts behind
    it, else from its 95 % interval; None where there is none of them.

    The standard error is half the interval over 1.96, and at least 2 / n: where no image tells two
    networks apart, the rule of three leaves about 3 / n.
    """
    if variance is not None:
        return ReplicatedIncrease(estimate.value, variance)
    if counts is not None:
        return PairedIncrease(PairedErrors(counts.only_checkpoint, counts.only_reference, counts.n))
    if estimate.low is None or estimate.high is None:
        return None
    deviation = (estimate.high - estimate.low) / (2 * Z95)
    least = 2 / estimate.n if estimate.n else 1e-9
    return NormalIncrease(estimate.value, max(deviation, least), estimate.n)


def judge(increase: Increase, limit: float, level: float) -> Outcome:
    """Return whether an increase is proven below a limit at a level of significance, lies beyond it
    by more than noise explains (`FAIL_CONFIDENCE`), or neither.
    """
    if increase.p_value_below(limit) <= level:
        return "passed"
    if increase.p_value_beyond(limit) <= 1 - FAIL_CONFIDENCE:
        return "failed"
    return "undecided"


def count_deciding_images(increase: Increase, limit: float, level: float) -> int | None:
    """Return how many images in all would decide in four of five jobs, were the increase as
    measured: to pass where it lies below the limit, to fail where it lies above.
    """
    is_above = increase.value > limit
    return increase.count_needed(limit, FAIL_CONFIDENCE if is_above else 1 - level)
