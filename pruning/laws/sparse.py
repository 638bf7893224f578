"""The law of sparse foundation models: loss by density, non-zero parameters and amount of data.

    L = (a d^b + c) N^-e + f D^-g + h

N = d M is the number of non-zero parameters of a network of M, D the amount of data.

Frantar, Riquelme, Houlsby, Alistarh, Evci, Scaling Laws for Sparsely-Connected Foundation Models,
ICLR 2024.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq, least_squares

from pruning.errors import CurveError, InsufficientPointsError, ParameterError, UnreachableError
from pruning.laws.bands import BandTarget
from pruning.laws.documents import Forecast
from pruning.laws.feature_law import PlainLaw, assemble_plain_fields, gather_plain_curves
from pruning.laws.fitting import Problem
from pruning.laws.forms import Floats, broadcast_floats
from pruning.laws.solver import Box
from pruning.schemas.report import Estimate

LEAST = 1e-6
"""The smallest density of a search."""
STARTS = 25
"""The number of starts of a fit."""
LOWER = (-15.0, 0.0, -15.0, 0.0, -15.0, 0.0, -15.0)
UPPER = (10.0, 10.0, 10.0, 5.0, 10.0, 5.0)
"""Limits of theta; the upper one of ln h, the last parameter, is the ln of the largest loss."""


class SparseForm:
    """The sparse law in theta = (ln a, b, ln c, e, ln f, g, ln h); features ln d, ln N, ln D."""

    names: ClassVar[tuple[str, ...]] = ("log_a", "b", "log_c", "e", "log_f", "g", "log_h")

    def evaluate(
        self, theta: Floats, features: Floats, log_unpruned: Floats
    ) -> tuple[Floats, Floats]:
        """ln L and its gradient; the unpruned error does not enter."""
        log_a, b, log_c, e, log_f, g, log_h = (column[:, None] for column in theta.T)
        log_d, log_n, log_data = features
        terms = np.stack(
            np.broadcast_arrays(
                log_a + b * log_d - e * log_n,
                log_c - e * log_n,
                log_f - g * log_data,
                log_h + 0 * log_d,
            )
        )
        value = np.logaddexp.reduce(terms, axis=0)
        # The shares of the four terms in the loss: the derivatives by their logarithms.
        share_a, share_c, share_f, share_h = np.exp(terms - value)
        gradient = np.stack(
            [
                share_a,
                share_a * log_d,
                share_c,
                -(share_a + share_c) * log_n,
                share_f,
                -share_f * log_data,
                share_h,
                np.zeros_like(value),
            ],
            axis=1,
        )
        return value, gradient


class SparseLaw(PlainLaw):
    """L = (a d^b + c) (d M)^-e + f D^-g + h of networks of M parameters, trained on an amount D."""

    form: ClassVar[SparseForm] = SparseForm()
    kind: Literal["sparse"] = "sparse"

    @property
    def coefficients(self) -> dict[str, float]:
        """The values of a, b, c, e, f, g, h by name, in the units of the fitted columns."""
        values = [
            float(np.exp(value)) if name.startswith("log_") else value
            for name, value in zip(self.fit.names, self.fit.theta, strict=True)
        ]
        return dict(zip("abcefgh", values, strict=True))

    @property
    def floor(self) -> float:
        """The loss h, which no size and no amount of data go below."""
        return self.coefficients["h"]

    def _build_features(self, density: ArrayLike, parameters: ArrayLike, data: ArrayLike) -> Floats:
        d, m, amount = broadcast_floats(density, parameters, data)
        if not ((d > 0) & (d <= 1) & (m > 0) & (amount > 0)).all():
            raise ParameterError("density: above 0 and at most 1; parameters and data: above 0")
        return np.log([d, d * m, amount])

    def curve(self, density: ArrayLike, parameters: ArrayLike, data: ArrayLike) -> Floats:
        """The law anywhere, without band: for plots; `parameters` as of the dense network."""
        return self._predict_errors(self._build_features(density, parameters, data))

    def forecasts(
        self,
        density: ArrayLike,
        parameters: ArrayLike,
        data: ArrayLike,
        *,
        confidence: float = 0.9,
        of: BandTarget = "run",
    ) -> tuple[Forecast, ...]:
        """Losses with bands; extrapolations outside the fitted densities, sizes or amounts."""
        features = self._build_features(density, parameters, data)
        return self._forecast_points(features, np.exp(features[0]), confidence, of)

    def predict(
        self,
        density: ArrayLike,
        parameters: ArrayLike,
        data: ArrayLike,
        *,
        confidence: float = 0.9,
        of: BandTarget = "run",
    ) -> Estimate | tuple[Estimate, ...]:
        """The loss at a density of a network of `parameters` when dense, with its band.

        One estimate, or a tuple where an argument is an array.
        """
        forecasts = self.forecasts(density, parameters, data, confidence=confidence, of=of)
        estimates = tuple(forecast.error for forecast in forecasts)
        arguments = (density, parameters, data)
        return estimates[0] if all(np.ndim(values) == 0 for values in arguments) else estimates

    def density_for(self, error: float, parameters: float, data: float) -> float:
        """The smallest density at which a network of `parameters` when dense has at most this loss.

        With b > e the loss has its minimum at a density below 1: the search is on the side where
        the loss falls with density. Raises `UnreachableError` below that minimum.
        """

        def excess(log_density: float) -> float:
            return float(self.curve(np.exp(log_density), parameters, data)[0]) - error

        grid = np.geomspace(LEAST, 1.0, 400)
        losses = self.curve(grid, parameters, data)
        best = int(np.argmin(losses))
        if not losses[best] <= error:
            raise UnreachableError(
                f"loss {error:g} is below every density's: the closest is {losses[best]:.4g} at "
                f"density {grid[best]:.3g}"
            )
        if losses[0] <= error:
            return LEAST
        log_density = brentq(excess, np.log(LEAST), np.log(grid[best]), xtol=1e-12)
        return float(np.exp(log_density))


def fit_sparse_law(
    density: ArrayLike,
    parameters: ArrayLike,
    data: ArrayLike,
    loss: ArrayLike,
    *,
    huber: float | None = 0.01,
    on: Literal["loss", "log_loss", "relative"] = "loss",
    seed: int = 0,
) -> SparseLaw:
    """Fit the sparse law to losses at densities of networks trained on `data`, (n) each.

    `parameters` are those of the dense network. The published fits are Huber's loss, quadratic up
    to `huber`, of the deviation of the loss (0.01, vision transformers) or of its logarithm (0.001,
    T5), from STARTS uniform starts drawn by `seed`; `on="relative"` with huber=None is the least
    squares of the other laws. Choose units in which parameters and data are near 1. Raises
    `CurveError` for numbers that no law can describe, `InsufficientPointsError` for fewer than 14
    points.

    >>> axes = np.meshgrid([1.0, 0.5, 0.25], [1.0, 4.0, 16.0], [1.0, 3.0, 9.0])
    >>> d, m, t = (axis.ravel() for axis in axes)
    >>> loss = (1.3 * d**0.8 + 2.0) * (d * m) ** -0.4 + 0.9 * t**-0.5 + 1.0
    >>> law = fit_sparse_law(d, m, t, loss, huber=None, on="relative")
    >>> [round(value, 3) for value in law.coefficients.values()]
    [1.3, 0.8, 2.0, 0.4, 0.9, 0.5, 1.0]
    """
    try:
        d, m, amount, value = broadcast_floats(density, parameters, data, loss)
    except (TypeError, ValueError) as failure:
        raise CurveError(
            "densities, parameters, data and losses are numbers, as many of each or one for all"
        ) from failure
    table = np.stack([d, m, amount, value])
    if table.ndim != 2 or not (np.isfinite(table) & (table > 0)).all() or d.max() > 1:
        raise CurveError(
            "densities are above 0 and at most 1; parameters, data and losses are finite and "
            "above 0"
        )
    if on not in ("loss", "log_loss", "relative"):
        raise ParameterError(f"on: {on!r}; 'loss', 'log_loss' or 'relative'")
    if huber is not None and not huber > 0:
        raise ParameterError(f"huber: {huber:g}; above 0, or None for least squares")
    amounts = len(np.unique(amount))
    if amounts == 2:
        raise InsufficientPointsError(
            "2 amounts of data do not determine its exponent: 1 more would do, or one amount alone"
        )
    box = _choose_limits(value, several_amounts=amounts > 1)
    problem = Problem(
        form=SparseForm(),
        box=box,
        starts=_draw_starts(box, value, seed),
        features=np.log([d, d * m, amount]),
        curves=gather_plain_curves(d, value),
        unpruned_sd=None,
    )
    problem.check_enough_points()
    fields = assemble_plain_fields(problem, np.log(d * m))
    if huber is not None or on != "relative":
        fields = _refit_robustly(problem, fields, huber, on)
    return SparseLaw(**fields)


def _choose_limits(loss: Floats, *, several_amounts: bool) -> Box:
    """The limits of theta; without several amounts of data, f is almost 0 and g is 0."""
    free = np.array([True, True, True, True, several_amounts, several_amounts, True])
    fixed = [0, 0, 0, 0, -30.0, 0, 0]
    lower = np.where(free, LOWER, fixed)
    upper = np.where(free, [*UPPER, np.log(loss.max())], fixed)
    return Box(lower, upper)


def _draw_starts(box: Box, loss: Floats, seed: int) -> Floats:
    """Uniform starts between 0 and 1 for every coefficient, and for h below the smallest loss."""
    drawn = np.random.default_rng(seed).uniform(size=(STARTS, 7))
    is_log = np.array([name.startswith("log_") for name in SparseForm.names])
    starts = np.clip(np.where(is_log, np.log(drawn + 1e-6), drawn), box.lower, box.upper)
    starts[:, 6] = np.minimum(starts[:, 6] + np.log(loss.min()), box.upper[6])
    return starts


def _refit_robustly(
    problem: Problem, fields: dict[str, Any], huber: float | None, on: str
) -> dict[str, Any]:
    """The same law at the minimum of Huber's loss, from the least-squares fit and from three of the
    starts.
    """
    rows, form, free = problem.rows, problem.form, list(problem.box.free)
    zeros = np.zeros(len(problem.curves))
    theta = np.array(fields["fit"].theta)
    theta[free] = _minimise_huber(problem, theta, huber, on)
    values, gradients = form.evaluate(theta[None], rows.features, zeros)
    value, gradient = values[0], gradients[0]
    residual = np.expm1(value - rows.log_error)
    fitted = list(fields["fit"].free)
    hessian = gradient[fitted] @ gradient[fitted].T
    sigma = float(np.sqrt((residual**2).sum() / max(1, len(residual) - len(free))))
    covariance = sigma**2 * np.linalg.pinv(hessian, hermitian=True)
    fit = fields["fit"].model_copy(
        update={
            "theta": tuple(theta.tolist()),
            "sigma": sigma,
            "noise": sigma,
            "unpruned_sd": sigma,
            "residual_mean": float(residual.mean()),
            "residual_sd": float(residual.std()),
            "covariance": tuple(tuple(row) for row in covariance.tolist()),
        }
    )
    points = tuple(
        point.model_copy(update={"fitted": float(error)})
        for point, error in zip(fields["points"], np.exp(value), strict=True)
    )
    return {**fields, "fit": fit, "points": points}


def _minimise_huber(problem: Problem, theta: Floats, huber: float | None, on: str) -> Floats:
    """The free parameters at the least of Huber's losses from `theta` and three starts, (Q,)."""
    rows, box, free = problem.rows, problem.box, list(problem.box.free)
    zeros = np.zeros(len(problem.curves))

    def evaluate(x: Floats) -> tuple[Floats, Floats]:
        full = theta.copy()
        full[free] = x
        values, gradients = problem.form.evaluate(full[None], rows.features, zeros)
        value, gradient = values[0], gradients[0]
        if on == "log_loss":
            return value - rows.log_error, gradient[free]
        if on == "loss":
            loss = np.exp(value)
            return loss - np.exp(rows.log_error), loss * gradient[free]
        quotient = np.exp(value - rows.log_error)
        return quotient - 1.0, quotient * gradient[free]

    def deviation(x: Floats) -> Floats:
        return evaluate(x)[0]

    def jacobian(x: Floats) -> Floats:
        return evaluate(x)[1].T

    minima = []
    for start in (theta, *problem.starts[:3]):
        minimum = least_squares(
            deviation,
            np.clip(start[free], box.lower[free] + 1e-9, box.upper[free] - 1e-9),
            jac=jacobian,
            bounds=(box.lower[free], box.upper[free]),
            x_scale="jac",
            loss="linear" if huber is None else "huber",
            f_scale=huber or 1.0,
            xtol=1e-14,
            ftol=1e-14,
            gtol=1e-12,
            max_nfev=2000,
        )
        minima.append(minimum)
    best = min(minima, key=lambda minimum: minimum.cost)
    return np.asarray(best.x)
