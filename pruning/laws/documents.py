"""The contents of a fitted law: frozen documents of plain numbers, which survive JSON and answer
without the data.
"""

from __future__ import annotations

from pruning.schemas.base import Document
from pruning.schemas.report import Estimate

Numbers = tuple[float, ...]


class Point(Document):
    """A measured point, averaged over trials, beside the error of the law."""

    network: int
    density: float
    error: float
    fitted: float


class NetworkCurve(Document):
    """A network that was fitted: its size, and the part of its curve that was measured."""

    depth: float
    width: float
    unpruned_error: float
    points: int
    sparsest: float
    densest: float
    response: Numbers
    """Derivatives of the free parameters by ln of this network's unpruned error."""
    trials: int = 1
    """The number of seeds under which it was measured."""


class Fit(Document):
    """The minimum, and how well the points determine it.

    Parameters are in the scale of the form, which `names` shows: `log_p` is ln p.
    """

    names: tuple[str, ...]
    theta: Numbers
    free: tuple[int, ...]
    """Indices of the parameters that were fitted; one that ended at a limit is not among them."""
    covariance: tuple[Numbers, ...]
    """noise^2 (J'WJ)^-1 of the free parameters, at fixed unpruned errors."""
    condition: float | None
    """Condition number of J'WJ with unit diagonal; `null` where nothing is free."""
    sigma: float
    """Relative standard deviation of a point of weight 1 about the curve.

    sqrt(sum w r^2 / degrees of freedom).
    """
    residual_mean: float
    """Mean of error(law) / error - 1 over the points."""
    residual_sd: float
    """Standard deviation of error(law) / error - 1 over the points."""
    noise: float
    """`sigma` cleared of what wrong unpruned errors add to the residuals of a network together."""
    degrees_of_freedom: int
    unpruned_sd: float
    """Relative standard deviation of an unpruned error: root mean square over the networks."""
    unpruned_sds: Numbers = ()
    """The same of each network, for its trials and its test images."""


class Folds(Document):
    """Fits that leave out one part of the points each, and the relative deviation of every point
    from the fit without it.
    """

    of: str
    """The unit that is left out: `points` or `networks`."""
    theta: tuple[Numbers, ...]
    fold: tuple[int, ...]
    missed: Numbers
    """|error(law without the fold) / error - 1| of every point."""
    weight: Numbers
    """The points' weights."""


class Refits(Document):
    """Parameters of the fits to resampled data."""

    of: str
    """The unit that was resampled: `networks`, `networks and trials`, `points and trials` or
    `residuals`.
    """
    theta: tuple[Numbers, ...]
    shift: tuple[Numbers, ...] = ()
    """ln of the factors on the unpruned errors of the fitted networks, by refit; empty where they
    were not perturbed.
    """
    widen: float
    """Factor on the deviations: sqrt(k / (k - 1)) of k clusters, as resamples vary too little."""
    degrees_of_freedom: int
    """Degrees of freedom of the Student's t that takes the place of the normal."""


class Held(Document):
    """A point that a fit has not seen: measured and predicted."""

    network: int
    density: float
    measured: float
    predicted: float


class BackTest(Document):
    """A fit to the denser part of every network that predicts the sparser: what an extrapolation
    is worth.
    """

    points: tuple[Held, ...]
    mean_absolute: float
    """Mean |predicted / measured - 1|."""
    bias: float
    """Mean of predicted / measured - 1; below 0 the law is optimistic."""
    root_mean_square: float
    """Root mean square of ln(predicted / measured)."""
    reach: float
    """Mean of ln(sparsest fitted density / predicted density)."""
    highest_rise: float | None
    """Largest error of the denser part over the unpruned error; below 1.5 a forecast is refused."""


class Forecast(Document):
    """A predicted error with its band, and notes on both."""

    density: float
    error: Estimate
    extrapolated: bool
    notes: tuple[str, ...] = ()
    law: str = ""
    """The name of the law that answers, where there are several."""


def average_held_out(folds: Folds | None, points: tuple[Point, ...]) -> float | None:
    """Mean deviation at points that were left out; None without folds.

    The sparsest point of every network, which is beyond the others, and the unpruned one do not
    count.
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
