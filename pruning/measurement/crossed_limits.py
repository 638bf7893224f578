"""Limits and tests of means over replicates of a job and over the images that all of them see;
imports no torch.

Replicates differ in their seed and look at the same images: the two are crossed, and both are
samples. A mean has the limits value +- sqrt(z^2 V_images + t^2 V_replicates), z the normal quantile
and t Student's with as many degrees of freedom as replicates less one: with few replicates it is
they that are hardly known. Seeds move an error by a factor: a one-sided upper limit of an increase
to the error e takes ((e + width) / e)^2 times the V_replicates at the mean.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from pruning.measurement.paired import MOST_IMAGES, POWER
from pruning.schemas.verdicts import CrossedVariance

_HALVINGS = 60


def compute_half_width(variance: CrossedVariance, confidence: float, factor: float = 1.0) -> float:
    """The distance from a mean to its limit, one-sided at this confidence, where seeds move it
    `factor` times as much as at the mean.
    """
    normal, student = _find_quantiles(variance, confidence)
    by_replicates = (student * factor) ** 2 * variance.by_replicates
    return math.sqrt(normal**2 * variance.by_images + by_replicates)


def compute_limits(
    value: float, variance: CrossedVariance, confidence: float
) -> tuple[float, float]:
    """The lower and the upper limit, each one-sided at this confidence, the upper one infinite
    where nothing bounds it.

    The upper one, at the distance w, solves w^2 = z^2 V_images + t^2 V_replicates (1 + w / e)^2.
    """
    width = compute_half_width(variance, confidence)
    if not variance.error:
        return value - width, value + width
    _, student = _find_quantiles(variance, confidence)
    share = student**2 * variance.by_replicates / variance.error**2
    if share >= 1:
        return value - width, math.inf
    half = share * variance.error
    root = math.sqrt(half**2 + (1 - share) * width**2)
    return value - width, value + (half + root) / (1 - share)


def _find_quantiles(variance: CrossedVariance, confidence: float) -> tuple[float, float]:
    """The normal quantile, and Student's for the replicates."""
    from scipy.special import stdtrit

    student = float(stdtrit(variance.replicates - 1, confidence))
    return NormalDist().inv_cdf(confidence), student


def p_value_below(value: float, variance: CrossedVariance, limit: float) -> float:
    """The p-value against "the mean is at least the limit": the level at which the upper limit
    meets it; above one half where the mean is larger.

    >>> variance = CrossedVariance(by_images=1e-4, by_replicates=0.0, images=100, replicates=3)
    >>> round(p_value_below(0.0, variance, 0.0164485), 4)
    0.05
    """
    gap = limit - value
    if gap < 0:
        return 1.0 - p_value_above(value, variance, limit)
    factor = 1 + gap / variance.error if variance.error else 1.0
    return _find_level(variance, gap, factor)


def p_value_above(value: float, variance: CrossedVariance, limit: float) -> float:
    """The p-value against "the mean is at most the limit": the level at which the lower limit
    meets it.
    """
    gap = value - limit
    if gap < 0:
        return 1.0 - p_value_below(value, variance, limit)
    return _find_level(variance, gap, 1.0)


def _find_level(variance: CrossedVariance, gap: float, factor: float) -> float:
    """The level at which a limit lies at this distance, at least 1e-15; 1/2 for none."""
    low, high = math.log(1e-15), math.log(0.5)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if compute_half_width(variance, 1 - math.exp(middle), factor) > gap:
            low = middle
        else:
            high = middle
    return math.exp(high)


def count_needed_images(
    value: float, variance: CrossedVariance, limit: float, confidence: float
) -> int | None:
    """The images in all that would prove on which side of a limit a mean lies, in four of five
    cases and with as many replicates; None where no number of images would.
    """
    gap = abs(limit - value)
    factor = 1 + gap / variance.error if variance.error and limit > value else 1.0
    power = NormalDist().inv_cdf(POWER)

    def is_enough(images: float) -> bool:
        by_images = variance.by_images * variance.images / images
        more = variance.model_copy(update={"by_images": by_images})
        deviation = math.sqrt(by_images + variance.by_replicates)
        return compute_half_width(more, confidence, factor) + power * deviation <= gap

    if not variance.images or not is_enough(MOST_IMAGES):
        return None
    low, high = 0.0, math.log(MOST_IMAGES)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if is_enough(math.exp(middle)):
            high = middle
        else:
            low = middle
    return math.ceil(math.exp(high))
