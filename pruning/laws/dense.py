"""The law of networks that are not pruned: their error by parameters and training images, also for
networks that were not trained.

    error = e0 x / sqrt(x^2 + eta^2),   x = n^-alpha + b m^-beta + c,   e0 chance

m parameters and n images, both in units of the largest that were given. Rosenfeld, Rosenfeld,
Belinkov, Shavit, A Constructive Prediction of the Generalization Error Across Scales, ICLR 2020.
"""

from __future__ import annotations

import itertools
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike

from pruning.errors import CurveError, InsufficientPointsError, ParameterError, UnreachableError
from pruning.laws.assembly import choose_chance
from pruning.laws.bands import BandTarget
from pruning.laws.documents import Forecast
from pruning.laws.feature_law import PlainLaw, assemble_plain_fields, gather_plain_curves
from pruning.laws.fitting import Problem
from pruning.laws.forms import Floats, broadcast_floats
from pruning.laws.solver import Box
from pruning.schemas.report import Estimate


class DenseForm:
    """The dense law in theta = (alpha, ln b, beta, ln c, ln eta, ln e0); features ln m, ln n."""

    names: ClassVar[tuple[str, ...]] = ("alpha", "log_b", "beta", "log_c", "log_eta", "log_chance")

    def evaluate(
        self, theta: Floats, features: Floats, log_unpruned: Floats
    ) -> tuple[Floats, Floats]:
        """ln error and its gradient, eta^2 / (x^2 + eta^2) by ln x; no unpruned error enters."""
        alpha, log_b, beta, log_c, log_eta, log_chance = (column[:, None] for column in theta.T)
        log_m, log_n = features
        terms = np.stack(
            np.broadcast_arrays(-alpha * log_n, log_b - beta * log_m, log_c + 0 * log_m)
        )
        log_x = np.logaddexp.reduce(terms, axis=0)
        by_n, by_m, by_c = np.exp(terms - log_x)
        twice = np.logaddexp(2 * log_x, 2 * log_eta)  # ln(x^2 + eta^2)
        bend = np.exp(2 * log_eta - twice)
        gradient = np.stack(
            [
                -bend * by_n * log_n,
                bend * by_m,
                -bend * by_m * log_m,
                bend * by_c,
                -bend,
                np.ones_like(bend),
                np.zeros_like(bend),
            ],
            axis=1,
        )
        return log_chance + log_x - twice / 2, gradient


class DenseLaw(PlainLaw):
    """error = e0 x / sqrt(x^2 + eta^2), x = (n/n1)^-alpha + b (m/m1)^-beta + c, without pruning."""

    form: ClassVar[DenseForm] = DenseForm()
    kind: Literal["dense"] = "dense"
    largest: tuple[float, float]
    """The units m1 and n1: the most parameters and the most images of the fit."""

    @property
    def coefficients(self) -> dict[str, float]:
        """The values of alpha, b, beta, c, eta and chance, by name."""
        values = {}
        for name, value in zip(self.fit.names, self.fit.theta, strict=True):
            if name.startswith("log_"):
                values[name.removeprefix("log_")] = float(np.exp(value))
            else:
                values[name] = value
        return values

    @property
    def plateau(self) -> float:
        """The error of a network that has learned nothing: chance."""
        return self.coefficients["chance"]

    def _build_features(self, parameters: ArrayLike, images: ArrayLike) -> Floats:
        m, n = broadcast_floats(parameters, images)
        if not ((m > 0) & (n > 0)).all():
            raise ParameterError("parameters and images: above 0")
        return np.log([m / self.largest[0], n / self.largest[1]])

    def curve(self, parameters: ArrayLike, images: ArrayLike) -> Floats:
        """The law anywhere, without band: for plots."""
        return self._predict_errors(self._build_features(parameters, images))

    def forecasts(
        self,
        parameters: ArrayLike,
        images: ArrayLike,
        *,
        confidence: float = 0.9,
        of: BandTarget = "run",
    ) -> tuple[Forecast, ...]:
        """Errors without pruning, with bands; sizes beyond the fitted ones are extrapolations."""
        features = self._build_features(parameters, images)
        return self._forecast_points(features, np.ones(features.shape[1]), confidence, of)

    def predict(
        self,
        parameters: ArrayLike,
        images: ArrayLike,
        *,
        confidence: float = 0.9,
        of: BandTarget = "run",
    ) -> Estimate | tuple[Estimate, ...]:
        """The error of a network by its parameters and training images, with its band.

        One estimate, or a tuple where an argument is an array.
        """
        forecasts = self.forecasts(parameters, images, confidence=confidence, of=of)
        estimates = tuple(forecast.error for forecast in forecasts)
        return estimates[0] if np.ndim(parameters) == np.ndim(images) == 0 else estimates

    def parameters_for(self, error: float, images: float) -> float:
        """The fewest parameters whose error is at most `error`, as a count; 0 from chance on.

        In units of the largest counts m1 and n1 that were fitted it is m = (b / (x - n^-alpha -
        c))^(1/beta), x = eta e / sqrt(e0^2 - e^2) at the error e. Raises `UnreachableError` where
        no size suffices with these images.
        """
        alpha, b, beta, c, eta, chance = self.coefficients.values()
        if not error > 0:
            raise ParameterError(f"error: {error:g}; above 0")
        if not images > 0:
            raise ParameterError(f"images: {images:g}; above 0")
        if error >= chance:
            return 0.0
        image_term = (images / self.largest[1]) ** -alpha
        parameter_term = eta * error / np.sqrt(chance**2 - error**2) - image_term - c
        if parameter_term <= 0:
            x = image_term + c
            raise UnreachableError(
                f"error {error:g} is out of reach with {images:g} images: even infinitely many "
                f"parameters leave an error of {chance * x / np.hypot(x, eta):.4g}"
            )
        return float(self.largest[0] * (b / parameter_term) ** (1 / beta))


def fit_dense_law(
    parameters: ArrayLike,
    images: ArrayLike,
    error: ArrayLike,
    *,
    classes: int | None = None,
    guessing_error: float | None = None,
) -> DenseLaw:
    """Fit the errors of networks without pruning to their parameters and training images, (n) each.

    Relative least squares. Depth and width enter by the true count of parameters, which is about
    depth times width squared. With one amount of images only, alpha is not fitted. Chance is
    `guessing_error`, that of the best constant answer on the labels, or else 1 - 1/classes. Raises
    `CurveError` for numbers that no law can describe, `InsufficientPointsError` for fewer than two
    networks for each parameter.

    >>> m, n = (axis.ravel() for axis in np.meshgrid([1e5, 4e5, 1.6e6, 6.4e6], [5e3, 2e4, 5e4]))
    >>> x = (n / 5e4) ** -0.66 + 0.3 * (m / 6.4e6) ** -0.53
    >>> law = fit_dense_law(m, n, 0.9 * x / np.hypot(x, 19.77), classes=10)
    >>> (
    ...     round(law.coefficients["alpha"], 2),
    ...     round(law.coefficients["beta"], 2),
    ...     round(law.parameters_for(0.1, 5e4)),
    ... )
    (0.66, 0.53, 460446)
    """
    try:
        m, n, e = broadcast_floats(parameters, images, error)
    except (TypeError, ValueError) as failure:
        raise CurveError(
            "parameters, images and errors are numbers, as many of each or one for all"
        ) from failure
    if guessing_error is None and classes is None:
        raise ParameterError("classes: missing; give it, or guessing_error")
    chance = choose_chance(classes, guessing_error)
    _check_networks(m, n, e, chance)
    box, starts = _choose_limits(np.log(chance), several_amounts=bool(np.ptp(n) > 0))
    largest = (float(m.max()), float(n.max()))
    problem = Problem(
        form=DenseForm(),
        box=box,
        starts=starts,
        features=np.log([m / largest[0], n / largest[1]]),
        curves=gather_plain_curves(np.ones(len(e)), e),
        unpruned_sd=None,
    )
    return DenseLaw(largest=largest, **assemble_plain_fields(problem, np.log(m) + np.log(n)))


def _check_networks(m: Floats, n: Floats, e: Floats, chance: float) -> None:
    """Raise for parameters, images and errors (n,) that no law can describe."""
    table = np.stack([m, n, e])
    if table.ndim != 2 or not (np.isfinite(table) & (table > 0)).all():
        raise CurveError(
            "parameters, images and errors are finite and above 0; an error of 0 has no relative "
            "deviation"
        )
    if not e.size:
        raise InsufficientPointsError(
            "no network has been measured; 10 of different sizes would do"
        )
    if e.max() >= chance:
        raise CurveError(f"an error of {e.max():g} is at or above chance, {chance:g}")
    if np.ptp(np.log(m)) < 1e-9:
        raise InsufficientPointsError(
            "all networks have as many parameters: at least 1 more of another size would do"
        )
    if np.ptp(e) / e.max() < 1e-6:
        raise CurveError(
            f"all errors are equal, {e[0]:g}: a law needs networks whose errors differ"
        )


def _choose_limits(log_chance: float, *, several_amounts: bool) -> tuple[Box, Floats]:
    """The limits of theta and the starts (B, 6); alpha and c need several amounts of images."""
    several = float(several_amounts)
    lower = np.array([0.0, -20.0, 0.01, -30.0, -3.0, log_chance])
    upper = np.array([4.0 * several, 10.0, 4.0, 5.0, 10.0, log_chance])
    starts = np.array(
        [
            [alpha * several, np.log(b), beta, np.log(c), np.log(eta), log_chance]
            for alpha, b, beta, c, eta in itertools.product(
                (0.3, 0.8), (0.05, 0.5), (0.3, 0.8), (1e-6, 0.1), (3.0, 20.0)
            )
        ]
    )
    if not several_amounts:  # n^-alpha is 1, and c would be the same constant once more
        lower[3] = upper[3] = starts[:, 3] = np.log(1e-12)
    return Box(lower, upper), starts
