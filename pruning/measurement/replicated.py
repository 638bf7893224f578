"""Means over replicates of a job and over the images that all of them see: their variance and
intervals, and the band of one further run. Limits and tests are in `crossed_limits`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pruning.measurement.crossed_limits import compute_half_width
from pruning.measurement.intervals import Z95
from pruning.measurement.measure import estimate_error
from pruning.schemas.estimates import Estimate, Unit
from pruning.schemas.verdicts import CrossedVariance

CONFIDENCE = 0.95
RUN_CONFIDENCE = 0.9
"""The probability with which the band of a further run holds it."""


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
    added = [1.0, -1.0] if first.dtype == torch.bool else []
    variance = _split_variance(gaps, added)
    # An image more keeps the factor between errors finite where no image is wrong.
    error = float(first.double().mean()) + 1 / first.shape[1]
    return float(gaps.mean()), variance.model_copy(update={"error": error})


def measure_error(errors: Tensor) -> Estimate:
    """The mean error of networks on images, (replicates, images), with its 95 % interval.

    It is the exact one of a single network where all replicates are the same, or none is ever
    wrong. V_images is that with one wrong and one right image more.
    """
    if bool((errors == errors[0]).all()):
        return estimate_error(errors[0])
    added = [1.0, 0.0] if errors.dtype == torch.bool else []
    value = float(errors.double().mean())
    variance = _split_variance(errors.double(), added)
    return estimate_with_interval(value, variance, "fraction", 0.0, 1.0)


def _split_variance(values: Tensor, added: Sequence[float]) -> CrossedVariance:
    """The variance of the mean of values (replicates, images); `added` are images more for the part
    of the images.
    """
    replicates, images = values.shape
    means = torch.cat([values.mean(0), torch.tensor(added, dtype=torch.float64)])
    return CrossedVariance(
        by_images=float(means.var()) / len(means) if len(means) > 1 else 0.0,
        by_replicates=float(values.mean(1).var()) / replicates,
        images=images,
        replicates=replicates,
    )


def pool_estimates(estimates: Sequence[Estimate]) -> tuple[Estimate, CrossedVariance]:
    """The mean over replicates of what each of them measured, with its 95 % interval and variance.

    A standard error is half the width of an interval over 1.96; see `pool_values`. Without
    intervals that of the mean is of the replicates alone.

    >>> pooled, _ = pool_estimates([Estimate(value=0.1), Estimate(value=0.3)])
    >>> pooled.value, round(pooled.high, 2)
    (0.2, 1.47)
    """
    deviations = [
        (estimate.high - estimate.low) / (2 * Z95)
        for estimate in estimates
        if estimate.low is not None and estimate.high is not None
    ]
    images = [estimate.n for estimate in estimates if estimate.n is not None]
    return pool_values(
        [estimate.value for estimate in estimates],
        deviations,
        images=min(images, default=0),
        unit=estimates[0].unit,
    )


def pool_values(
    values: Sequence[float], deviations: Sequence[float], *, images: int, unit: Unit | None
) -> tuple[Estimate, CrossedVariance]:
    """The mean of a value of each replicate with its 95 % interval and its variance.

    `deviations` are the standard errors of the values over images. Nothing is known of single
    images: V_images is at most the square of the mean standard error, as if all replicates erred
    alike on other images. The interval is wider than needed where they do not.
    """
    numbers = torch.tensor(values, dtype=torch.float64)
    deviation = sum(deviations) / len(deviations) if deviations else 0.0
    variance = CrossedVariance(
        by_images=deviation**2,
        by_replicates=float(numbers.var()) / len(numbers),
        images=images,
        replicates=len(numbers),
    )
    return estimate_with_interval(float(numbers.mean()), variance, unit), variance


def estimate_with_interval(
    value: float,
    variance: CrossedVariance,
    unit: Unit | None,
    least: float = -math.inf,
    most: float = math.inf,
) -> Estimate:
    """A mean with its two-sided 95 % interval, within the limits of what is possible."""
    width = compute_half_width(variance, (1 + CONFIDENCE) / 2)
    low, high = max(least, value - width), min(most, value + width)
    return Estimate(value=value, low=low, high=high, n=variance.images or None, unit=unit)


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
