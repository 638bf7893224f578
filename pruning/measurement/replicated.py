"""Means over replicates of a job and over the images that all of them see: their variance, limits
and tests, and the band of one further run.

Replicates differ in their seed and look at the same images: the two are crossed, and both are
samples. An increase of the error has the limits value +- sqrt(z^2 V_images + t^2 V_replicates), z
the normal quantile and t Student's with as many degrees of freedom as replicates less one: with few
replicates it is they that are hardly known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import torch
from torch import Tensor

from pruning.measurement.intervals import Z95
from pruning.measurement.paired import MOST_IMAGES, POWER
from pruning.schemas.estimates import Estimate, Unit
from pruning.schemas.verdicts import CrossedVariance

CONFIDENCE = 0.95
RUN_CONFIDENCE = 0.9
"""The probability with which the band of a further run holds it."""
_HALVINGS = 60


def measure_increase(first: Tensor, second: Tensor) -> tuple[float, CrossedVariance]:
    """The mean over replicates and images of the error of the first networks less that of the
    second, and its variance.

    Both are (replicates, images), bool or the errors of the images. V_images is that of the means
    over replicates, by the images; V_replicates that of the means over images, by the replicates.
    The part that is of neither alone counts in both. Where images are right or wrong, V_images is
    that with two images more, of which only one network each gets one wrong (as Bonett and Price,
    2012, do for one pair): few discordant images say little of how many there are.
    """
    gaps = first.double() - second.double()
    value, variance = measure_mean(gaps)
    images = gaps.shape[1]
    if first.dtype == torch.bool:
        means = torch.cat([gaps.mean(0), torch.tensor([1.0, -1.0], dtype=torch.float64)])
        by_images = float(means.var()) / (images + 2)
        variance = variance.model_copy(update={"by_images": by_images})
    return value, variance


def measure_mean(values: Tensor) -> tuple[float, CrossedVariance]:
    """The mean of values (replicates, images), and its variance."""
    replicates, images = values.shape
    means = values.double()
    by_images = float(means.mean(0).var()) / images if images > 1 else 0.0
    by_replicates = float(means.mean(1).var()) / replicates
    variance = CrossedVariance(
        by_images=by_images, by_replicates=by_replicates, images=images, replicates=replicates
    )
    return float(means.mean()), variance


def pool_estimates(estimates: Sequence[Estimate]) -> tuple[Estimate, CrossedVariance]:
    """The mean over replicates of what each of them measured, with its 95 % interval.

    Nothing is known of single images: V_images is at most the square of the mean standard error,
    half the width of an interval over 1.96, as if all replicates erred alike on other images. The
    interval is wider than needed where they do not. Without intervals it is of the replicates
    alone.

    >>> pooled, _ = pool_estimates([Estimate(value=0.1), Estimate(value=0.3)])
    >>> pooled.value, round(pooled.high, 2)
    (0.2, 1.47)
    """
    values = torch.tensor([estimate.value for estimate in estimates], dtype=torch.float64)
    deviations = [
        (estimate.high - estimate.low) / (2 * Z95)
        for estimate in estimates
        if estimate.low is not None and estimate.high is not None
    ]
    deviation = sum(deviations) / len(deviations) if deviations else 0.0
    images = [estimate.n for estimate in estimates if estimate.n is not None]
    variance = CrossedVariance(
        by_images=deviation**2,
        by_replicates=float(values.var()) / len(values),
        images=min(images, default=0),
        replicates=len(values),
    )
    unit = estimates[0].unit
    return estimate_with_interval(float(values.mean()), variance, unit), variance


def estimate_with_interval(
    value: float,
    variance: CrossedVariance,
    unit: Unit | None,
    least: float = -math.inf,
    most: float = math.inf,
) -> Estimate:
    """A mean with its two-sided 95 % interval, within the limits of what is possible."""
    width = compute_half_width(variance, (1 + CONFIDENCE) / 2)
    low = max(least, value - width)
    high = min(most, value + width)
    return Estimate(value=value, low=low, high=high, n=variance.images or None, unit=unit)


def compute_half_width(variance: CrossedVariance, confidence: float) -> float:
    """The distance from a mean to its limit, one-sided at this confidence."""
    from scipy.special import stdtrit

    normal = NormalDist().inv_cdf(confidence)
    student = float(stdtrit(variance.replicates - 1, confidence))
    return math.sqrt(normal**2 * variance.by_images + student**2 * variance.by_replicates)


def p_value_below(value: float, variance: CrossedVariance, limit: float) -> float:
    """The p-value against "the mean is at least the limit": the level at which the upper limit
    meets it.

    >>> variance = CrossedVariance(by_images=1e-4, by_replicates=0.0, images=100, replicates=3)
    >>> round(p_value_below(0.0, variance, 0.0164485), 4)
    0.05
    """
    gap = limit - value
    if gap < 0:
        return 1.0 - p_value_below(limit, variance, value)
    # The logarithm of the level is searched, between 1e-15 and one half.
    low, high = math.log(1e-15), math.log(0.5)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if compute_half_width(variance, 1 - math.exp(middle)) > gap:
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
    power = NormalDist().inv_cdf(POWER)

    def is_enough(images: float) -> bool:
        by_images = variance.by_images * variance.images / images
        more = variance.model_copy(update={"by_images": by_images})
        deviation = math.sqrt(by_images + variance.by_replicates)
        return compute_half_width(more, confidence) + power * deviation <= gap

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


def predict_run(
    errors: Sequence[float], images: int, confidence: float = RUN_CONFIDENCE
) -> Estimate:
    """The mean of the errors of k replicates with the band that holds the error of one further
    run, under another seed, on the same images with probability `confidence`.

    mean +- t s sqrt(1 + 1 / k), s the standard deviation of the errors and t Student's quantile
    with k - 1 degrees of freedom, half an image wider on both sides; within 0 and 1.

    >>> band = predict_run([0.10, 0.12, 0.11], 1000)
    >>> round(band.low, 3), round(band.high, 3)
    (0.076, 0.144)
    """
    from scipy.special import stdtrit

    values = torch.tensor(errors, dtype=torch.float64)
    count = len(values)
    quantile = float(stdtrit(count - 1, (1 + confidence) / 2))
    width = quantile * float(values.std()) * math.sqrt(1 + 1 / count) + 0.5 / images
    mean = float(values.mean())
    low, high = max(0.0, mean - width), min(1.0, mean + width)
    return Estimate(value=mean, low=low, high=high, n=images, unit="fraction")
