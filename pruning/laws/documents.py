"""What a fitted law remembers: frozen documents of plain numbers that survive JSON, and can be
asked without the data.
"""

from __future__ import annotations

from pruning.schemas.base import Document
from pruning.schemas.report import Estimate

Numbers = tuple[float, ...]


class Point(Document):
    """One measured point, averaged over trials, beside what the law says of it."""

    network: int
    density: float
    error: float
    fitted: float


class NetworkCurve(Document):
    """One network that was fitted: its size, and the part of its curve that was measured."""

    depth: float
    width: float
    unpruned_error: float
    points: int
    sparsest: float
    densest: float
    response: Numbers
    """How the free parameters move with ln of this network's unpruned error: part of the band."""


class Fit(Document):
    """The minimum, and how well the points determine it. Parameters are in the form's own scale,
    `names` tells.
    """

    names: tuple[str, ...]
    theta: Numbers
    free: tuple[int, ...]
    """Indices of the parameters that were fitted; one that ended at a limit rests there and is not
    among them.
    """
    covariance: tuple[Numbers, ...]
    """noise^2 (J'WJ)^-1 of the free parameters; the error of the unpruned errors comes on top, by
    `response`.
    """
    condition: float | None
    """Condition number of J'WJ with unit diagonal; `null` where nothing is free."""
    sigma: float
    """Relative standard deviation of a point of weight 1 about the curve: sqrt(sum w r^2 / degrees
    of freedom).
    """
    residual_mean: float
    """Mean of error(law) / error - 1 over the points."""
    residual_sd: float
    """Its standard deviation over the points."""
    noise: float
    """`sigma` cleared of what wrong unpruned errors add to the residuals of a network together."""
    degrees_of_freedom: int
    unpruned_sd: float
    """Relative standard deviation of an unpruned error: root mean square over the networks."""
    unpruned_sds: Numbers = ()
    """That of each network, for its trials and its test images."""


class Folds(Document):
    """Fits without one part of the points each, and the relative deviation at every point from the
    fit without it.
    """

    of: str
    """What is left out together: `points` or `networks`."""
    theta: tuple[Numbers, ...]
    fold: tuple[int, ...]
    missed: Numbers
    """|error(law without the fold) / error - 1| of every point."""
    weight: Numbers
    """The points' weights."""


class Refits(Document):
    """Parameters of the fits to resampled data."""

    of: str
    """What was resampled: `networks`, `networks and trials`, `points and trials` or `residuals`."""
    theta: tuple[Numbers, ...]
    shift: tuple[Numbers, ...] = ()
    """ln of how the unpruned errors of the fitted networks were perturbed, by refit; empty where
    they were not.
    """
    widen: float
    """What deviations are multiplied with: sqrt(k / (k - 1)) of k clusters, whose resamples vary
    too little.
    """
    degrees_of_freedom: int
    """Of the Student's t that takes the place of the normal."""


class Held(Document):
    """A point that a fit has not seen: measured and predicted."""

    network: int
    density: float
    measured: float
    predicted: float


class BackTest(Document):
    """Fitted on the denser part of every network, predicted on the sparser: what extrapolation is
    worth here.
    """

    points: tuple[Held, ...]
    mean_absolute: float
    """Mean |predicted / measured - 1|."""
    bias: float
    """Mean of predicted / measured - 1; below 0 the law is optimistic."""
    root_mean_square: float
    """Of ln(predicted / measured)."""
    reach: float
    """Mean of ln(sparsest fitted density / predicted density)."""
    highest_rise: float | None
    """Largest error of the denser part over the unpruned error; below 1.5 such a forecast would be
    refused.
    """


class Forecast(Document):
    """A predicted error with its band and what to know about it."""

    density: float
    error: Estimate
    extrapolated: bool
    notes: tuple[str, ...] = ()


def average_held_out(folds: Folds | None, points: tuple[Point, ...]) -> float | None:
    """Mean of what the folds missed, less every network's sparsest point, which is beyond the rest,
    and its unpruned one.
    """
    if folds is None:
        return None
    sparsest: dict[int, float] = {}
    for point in points:
        sparsest[point.network] = min(point.density, sparsest.get(point.network, 1.0))
    inner = [
        missed
        for missed, point in zip(folds.missed, points, strict=True)
        if sparsest[point.network] < point.density < 1
    ] or list(folds.missed)
    return sum(inner) / len(inner)
