"""Means over images and over draws of noise, both of them samples, with intervals for both."""

from __future__ import annotations

import math

from torch import Tensor

from pruning.measurement.intervals import binomial_interval
from pruning.schemas.report import Estimate

CONFIDENCE = 0.95


def crossed_mean(sums: Tensor, sizes: Tensor, *, proportion: bool) -> Estimate:
    """The mean of what was measured on every image under every draw, with its 95 % interval for
    other images and other draws.

    `sums` (draws, images) are sums over the `sizes` (images,) values of an image, its pixels, or
    over one value for each. The mean is R = sum of sums / (draws x sum of sizes), and with the
    deviations z = (sums - R sizes) / mean size its variance is that of the means of z over draws,
    by the images, plus that of its means over images, by the draws: images and draws are crossed.
    The squares of Student's widths of both parts are added, as few draws may agree by chance:
    Satterthwaite's degrees of freedom would then let the interval shrink. Of a proportion the
    interval is Wilson's, of as many images as have this variance. No interval at a single image; n
    is the number of images.

    >>> import torch
    >>> agrees = torch.tensor([[1.0, 0.0, 1.0, 1.0], [1.0, 0.0, 1.0, 1.0]])
    >>> agreement = crossed_mean(agrees, torch.ones(4), proportion=True)
    >>> agreement.value, agreement.low < 0.35, agreement.high < 1
    (0.75, True, True)
    """
    draws, images = sums.shape
    value = float(sums.sum() / (draws * sizes.sum()))
    if images == 1:
        return Estimate(value=value, n=1)
    deviations = (sums - value * sizes) / sizes.double().mean()
    by_images = float(deviations.mean(0).var()) / images
    by_draws = float(deviations.mean(1).var()) / draws if draws > 1 else 0.0
    variance = by_images + by_draws
    if proportion and (value in (0.0, 1.0) or variance == 0):
        exact = binomial_interval(round(value * images), images)
        return exact.model_copy(update={"value": value, "unit": None})
    quantile = _find_quantile((by_images, images - 1), (by_draws, draws - 1))
    if not proportion:
        width = quantile * math.sqrt(variance)
        low, high = max(0.0, value - width), value + width
    else:
        low, high = _wilson_limits(value, value * (1 - value) / variance, quantile)
    return Estimate(value=value, low=low, high=high, n=images)


def _find_quantile(*parts: tuple[float, int]) -> float:
    """The quantile whose square is the mean of Student's, weighted by the variances of the parts.

    Each part is a variance with its degrees of freedom.
    """
    from scipy.special import stdtrit

    total = sum(variance for variance, _ in parts)
    if total == 0:
        return 0.0
    squares = sum(
        variance * float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) ** 2
        for variance, freedom in parts
        if variance > 0
    )
    return math.sqrt(squares / total)


def _wilson_limits(value: float, n: float, quantile: float) -> tuple[float, float]:
    """Wilson's limits of a proportion of n images."""
    square = quantile**2 / n
    centre = (value + square / 2) / (1 + square)
    width = math.sqrt(square * value * (1 - value) + square**2 / 4) / (1 + square)
    return centre - width, centre + width
