"""The law of networks that are not pruned: their error by parameters and training images, for
members nobody trained.

    error = e0 x / sqrt(x^2 + eta^2),   x = n^-alpha + b m^-beta + c,   e0 chance

m parameters and n images, both in units of the largest that were given. Rosenfeld, Rosenfeld,
Belinkov, Shavit, A Constructive Prediction of the Generalization Error Across Scales, ICLR 2020.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike

from pruning.errors import CurveError, InsufficientPointsError, ParameterError, UnreachableError
from pruning.laws.documents import Forecast
from pruning.laws.feature_law import PlainLaw, assemble_plain_fields, gather_plain_curves
from pruning.laws.fitting import Problem
from pruning.laws.forms import Floats
from pruning.laws.pruning_law import Of
from pruning.laws.solver import Box
from pruning.schemas.report import Estimate


class DenseForm:
    """The dense law in theta = (alpha, ln b, beta, ln c, ln eta, ln e0); features ln m, ln n."""

    names: ClassVar[tuple[str, ...]] = ("alpha", "log_b", "beta", "log_c", "log_eta", "log_chance")

    def evaluate(
        self, theta: Floats, features: Floats, log_unpruned: Floats
    ) -> tuple[Floats, Floats]:
        """ln error and its gradient; by ln x it is eta^2 / (x^2 + eta^2). The unpruned error does
        not enter.
        """
        alpha, log_b, beta, log_c, log_eta, log_chance = (column[:, None] for column in theta.T)
        log_m, log_n = features
        terms = np.stack(
            np.broadcast_arrays(-alpha * log_n, log_b - beta * log_m, log_c + 0 * log_m)
        )
        log_x = np.logaddexp.reduce(terms, axis=0)
        by_n, by_m, by_c = np.exp(terms - log_x)
        twice = np.logaddexp(2 * log_x, 2 * log_eta)
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
    """error = e0 x / sqrt(x^2 + eta^2), x = (n/n1)^-alpha + b (m/m1)^-beta + c, of networks as they
    are trained.
    """

    form: ClassVar[DenseForm] = DenseForm()
    kind: Literal["dense"] = "dense"
    largest: tuple[float, float]
    """The units: most parameters and most images."""

    @property
    def coefficients(self) -> dict[str, float]:
        """alpha, b, beta, c, eta and chance."""
        return {
            name.removeprefix("log_"): float(np.exp(x)) if name.startswith("log_") else x
            for name, x in zip(self.fit.names, self.fit.theta, strict=True)
        }

    @property
    def plateau(self) -> float:
        """The error of a network that has learned nothing: chance."""
        return self.coefficients["chance"]

    def _features(self, parameters: ArrayLike, images: ArrayLike) -> Floats:
        given = np.broadcast_arrays(
            *(np.atleast_1d(np.asarray(one, float)) for one in (parameters, images))
        )
        if not all((one > 0).all() for one in given):
            raise ParameterError("parameters and images: above 0")
        return np.log([one / unit for one, unit in zip(given, self.largest, strict=True)])

    def curve(self, parameters: ArrayLike, images: ArrayLike) -> Floats:
        """The law anywhere, without band: for plots."""
        return self._values(self._features(parameters, images))

    def forecasts(
        self, parameters: ArrayLike, images: ArrayLike, *, confidence: float = 0.9, of: Of = "mean"
    ) -> tuple[Forecast, ...]:
        """Errors of networks without pruning, with bands; sizes beyond the fitted ones are
        extrapolations.
        """
        features = self._features(parameters, images)
        return self._forecasts(features, np.ones(features.shape[1]), confidence, of)

    def predict(
        self, parameters: ArrayLike, images: ArrayLike, *, confidence: float = 0.9, of: Of = "mean"
    ) -> Estimate | tuple[Estimate, ...]:
        """The error of a network of so many parameters trained on so many images (one estimate, or
        a tuple of arrays').
        """
        found = tuple(
            one.error for one in self.forecasts(parameters, images, confidence=confidence, of=of)
        )
        return found[0] if np.ndim(parameters) == np.ndim(images) == 0 else found

    def parameters_for(self, error: float, images: float) -> float:
        """The fewest parameters with at most this error, m = (b / (x - n^-alpha - c))^(1/beta).

        x = eta e / sqrt(e0^2 - e^2) at the error e. Raises `UnreachableError` where no size
        suffices with these images.
        """
        alpha, b, beta, c, eta, chance = self.coefficients.values()
        if not error > 0:
            raise ParameterError(f"error: {error:g}; above 0")
        if error >= chance:
            return 0.0
        left = (
            eta * error / np.sqrt(chance**2 - error**2) - (images / self.largest[1]) ** -alpha - c
        )
        if left <= 0:
            x = (images / self.largest[1]) ** -alpha + c
            raise UnreachableError(
                f"error {error:g} is out of reach with {images:g} images: the closest, of "
                "endlessly many "
                f"parameters, is {chance * x / np.hypot(x, eta):.4g}"
            )
        return float(self.largest[0] * (b / left) ** (1 / beta))


def fit_dense_law(
    parameters: ArrayLike, images: ArrayLike, error: ArrayLike, *, classes: int
) -> DenseLaw:
    """Fit the error of networks without pruning, all (n), to their parameters and training images:
    relative least squares.

    Depth and width enter by the true count of parameters, which is about depth times width squared.
    With one amount of images alone, alpha has no say. `classes` gives chance. Raises `CurveError`
    for numbers that no law is of, `InsufficientPointsError` for fewer than two networks for each
    parameter.

    >>> m, n = (one.ravel() for one in np.meshgrid([1e5, 4e5, 1.6e6, 6.4e6], [5e3, 2e4, 5e4]))
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
        m, n, e = np.broadcast_arrays(
            *(np.atleast_1d(np.asarray(one, float)) for one in (parameters, images, error))
        )
    except (TypeError, ValueError) as wrong:
        raise CurveError(
            "parameters, images and errors are numbers, as many of each or one for all"
        ) from wrong
    if classes < 2:
        raise ParameterError(f"classes: {classes}; at least 2")
    chance = 1 - 1 / classes
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
            "all networks have as many parameters: 1 more of another size would do at the least"
        )
    if np.ptp(e) / e.max() < 1e-6:
        raise CurveError(
            f"all errors are equal, {e[0]:g}: a law needs networks whose errors differ"
        )
    several = float(np.ptp(n) > 0)
    top = np.log(chance)
    lower = np.array([0.0, -20.0, 0.01, -30.0, -3.0, top])
    upper = np.array([4.0 * several, 10.0, 4.0, 5.0, 10.0, top])
    starts = np.array(
        [
            [alpha * several, np.log(b), beta, np.log(c), np.log(eta), top]
            for alpha in (0.3, 0.8)
            for b in (0.05, 0.5)
            for beta in (0.3, 0.8)
            for c in (1e-6, 0.1)
            for eta in (3.0, 20.0)
        ]
    )
    largest = (float(m.max()), float(n.max()))
    if not several:  # n^-alpha is 1 and c would be the same thing
        lower[3] = upper[3] = starts[:, 3] = np.log(1e-12)
    problem = Problem(
        form=DenseForm(),
        box=Box(lower, upper),
        starts=starts,
        features=np.log([m / largest[0], n / largest[1]]),
        curves=gather_plain_curves(np.ones(len(e)), e),
        unpruned_sd=None,
    )
    return DenseLaw(largest=largest, **assemble_plain_fields(problem, np.log(m) + np.log(n)))
