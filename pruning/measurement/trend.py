"""Whether a quantity of the checkpoints of one run grows along them: a slope with intercept, and an
interval that images and checkpoints share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pruning.schemas.report import Estimate, Unit

FEWEST_POINTS = 4
"""A slope of fewer checkpoints has no interval worth the name."""
UNEXPLAINED = 0.5
"""The part of the scatter by images that is left to the checkpoints, for safety."""


def fit_growth(
    x: Sequence[float], y: Sequence[float], draws: Tensor, unit: Unit | None = None
) -> Estimate | None:
    """The slope b of y = a + b x by least squares with its 95 % interval; None for fewer than 4
    different x.

    `draws` (K, resamples) are bootstrap draws over images of the K values `y`, in the order of the
    checkpoints, each of which comes from the one before it. The variance of b is that over images,
    plus that of a random walk along the checkpoints with steps of variance s^2: each checkpoint
    keeps the deviations of those before it and adds its own. s^2 is the mean square of the steps of
    y beside the slope, less half of what images alone would make it, at least 0. The interval is
    Student's with K - 2 degrees of freedom. Independent deviations and near-duplicates make it
    wider than needed.

    >>> draws = torch.zeros(4, 10)
    >>> fit_growth([0.2, 0.4, 0.6, 0.8], [0.1, 0.3, 0.5, 0.7], draws).value
    1.0
    """
    from scipy.special import stdtrit

    if len(set(x)) < FEWEST_POINTS:
        return None
    across = torch.tensor(x, dtype=torch.float64)
    order = across.argsort()
    across = across[order]
    up = torch.tensor(y, dtype=torch.float64)[order, None]
    resampled = draws.double()[order]
    count = len(across)
    weights = _weigh(across)
    slope = float(weights @ up[:, 0])
    steps = _sum_step_squares(up, across, weights)
    by_images = _sum_step_squares(resampled - resampled.mean(1, keepdim=True), across, weights)
    variance = max(0.0, float(steps - UNEXPLAINED * by_images)) / (count - 2)
    # A step before checkpoint k moves all checkpoints from k on.
    reach = weights.flip(0).cumsum(0).flip(0)[1:]
    total = float((weights @ resampled).var()) + variance * float(reach.square().sum())
    width = float(stdtrit(count - 2, 0.975)) * math.sqrt(total)
    return Estimate(value=slope, low=slope - width, high=slope + width, n=count, unit=unit)


def measure_slope(x: Sequence[float], y: Sequence[float], draws: Tensor) -> tuple[float, float]:
    """The slope of `fit_growth`, and its standard deviation over images alone: what replicates of
    a run share.

    >>> measure_slope([0.2, 0.4, 0.6, 0.8], [0.1, 0.3, 0.5, 0.7], torch.zeros(4, 10))
    (1.0, 0.0)
    """
    weights = _weigh(torch.tensor(x, dtype=torch.float64))
    slope = float(weights @ torch.tensor(y, dtype=torch.float64))
    return slope, float((weights @ draws.double()).std())


def _weigh(across: Tensor) -> Tensor:
    """The weights of y in the least-squares slope over x, (K,)."""
    centred = across - across.mean()
    return centred / centred.square().sum()


def _sum_step_squares(values: Tensor, across: Tensor, weights: Tensor) -> Tensor:
    """The sum over steps of (y_k+1 - y_k - b (x_k+1 - x_k))^2 of values (K, columns), the mean over
    columns.
    """
    slopes = weights @ values
    steps = values.diff(dim=0) - across.diff()[:, None] * slopes
    return steps.square().sum(0).mean()
