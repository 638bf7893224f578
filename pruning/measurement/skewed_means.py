"""Confidence intervals of the mean of values with a heavy tail, such as losses."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pruning.schemas.report import Estimate, Unit


def skewed_mean_interval(
    values: Tensor, *, confidence: float = 0.95, unit: Unit | None = None
) -> Estimate:
    """Mean of n samples (n,), such as losses, with Hall's interval, which allows for a heavy tail;
    a single sample has none. See `limit_mean`.

    >>> estimate = skewed_mean_interval(torch.tensor([0.0] * 9 + [10.0]))
    >>> estimate.value, round(estimate.low, 2), round(estimate.high, 2)
    (1.0, -0.45, 8.15)
    """
    n = len(values)
    value = float(values.double().mean())
    if n == 1:
        return Estimate(value=value, n=1, unit=unit)
    below, above = limit_mean(values, confidence)
    return Estimate(
        value=value, low=value - float(below), high=value + float(above), n=n, unit=unit
    )


def limit_mean(values: Tensor, confidence: float = 0.95) -> tuple[Tensor, Tensor]:
    """The distances that the mean may be below and above that of samples (..., n), n > 1.

    Hall's transformation takes the skewness out of Student's T = (mean - mu) / se:
    g(T) = T + a T^2 / 3 + a^2 T^3 / 27 + a / 6, a = skewness / sqrt(n), is symmetric but for terms
    of 1 / n, so mu lies between mean - se h(t) and mean - se h(-t) with the inverse
    h(y) = (3 / a) ((1 + a (y - a / 6))^(1/3) - 1) and t the quantile of n - 1 degrees of freedom.
    Hall, Journal of the Royal Statistical Society B 54 (1992).

    >>> below, above = limit_mean(torch.tensor([-1.0, 0.0, 1.0]))
    >>> round(float(below), 3), round(float(above), 3)
    (2.484, 2.484)
    """
    from scipy.special import stdtrit

    n = values.shape[-1]
    centred = values.double() - values.double().mean(-1, keepdim=True)
    variance = centred.square().mean(-1)
    skewness = centred.pow(3).mean(-1) / variance.pow(1.5)
    a = torch.where(variance > 0, skewness, 0.0) / math.sqrt(n)
    quantile = float(stdtrit(n - 1, (1 + confidence) / 2))
    error = (variance / (n - 1)).sqrt()
    return error * _remove_skewness(quantile, a), -error * _remove_skewness(-quantile, a)


def _remove_skewness(y: float, a: Tensor) -> Tensor:
    """Hall's h(y), which is y where a is 0."""
    cubed = 1 + a * (y - a / 6)
    root = cubed.sign() * cubed.abs().pow(1 / 3)
    tiny = a.abs() < 1e-6
    return torch.where(tiny, y, 3 * (root - 1) / torch.where(tiny, 1.0, a))
