"""The law of sparse foundation models: loss by density, non-zero parameters and amount of data.

    L = (a d^b + c) N^-e + f D^-g + h,   N = d M non-zero parameters of a network of M, D the amount of data

Frantar, Riquelme, Houlsby, Alistarh, Evci, Scaling Laws for Sparsely-Connected Foundation Models,
ICLR 2024.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq, least_squares

from pruning.errors import CurveError, InsufficientPointsError, ParameterError, UnreachableError
from pruning.laws.documents import Forecast
from pruning.laws.feature_law import PlainLaw, assemble_plain_fields, gather_plain_curves
from pruning.laws.fitting import Problem
from pruning.laws.forms import Floats
from pruning.laws.pruning_law import Of
from pruning.laws.solver import Box
from pruning.schemas.report import Estimate

LEAST = 1e-6
"""Densities are looked for down to here."""
STARTS = 25


class SparseForm:
    """The sparse law in theta = (ln a, b, ln c, e, ln f, g, ln h); features ln density, ln N, ln
    D.
    """

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
        first, second, third, last = np.exp(terms - value)
        return value, np.stack(
            [
                first,
                first * log_d,
                second,
                -(first + second) * log_n,
                third,
                -third * log_data,
                last,
                np.zeros_like(value),
            ],
            axis=1,
        )


class SparseLaw(PlainLaw):
    """L = (a d^b + c) (d M)^-e + f D^-g + h of networks of M parameters, trained on an amount D."""

    form: ClassVar[SparseForm] = SparseForm()
    kind: Literal["sparse"] = "sparse"

    @property
    def coefficients(self) -> dict[str, float]:
        """a, b, c, e, f, g, h, in the units of the parameters and data that were given."""
        values = [
            float(np.exp(x)) if name.startswith("log_") else x
            for name, x in zip(self.fit.names, self.fit.theta, strict=True)
        ]
        return dict(zip("abcefgh", values, strict=True))

    @property
    def floor(self) -> float:
        """The loss that no size and no data go below, h."""
        return self.coefficients["h"]

    def _features(self, density: ArrayLike, parameters: ArrayLike, data: ArrayLike) -> Floats:
        d, m, amount = np.broadcast_arrays(
            *(np.atleast_1d(np.asarray(one, float)) for one in (density, parameters, data))
        )
        if not ((d > 0) & (d <= 1) & (m > 0) & (amount > 0)).all():
            raise ParameterError("density: above 0 and at most 1; parameters and data: above 0")
        return np.log([d, d * m, amount])

    def curve(self, density: ArrayLike, parameters: ArrayLike, data: ArrayLike) -> Floats:
        """The law anywhere, without band: for plots. `parameters` are those of the dense
        network.
        """
        return self._values(self._features(density, parameters, data))

    def forecasts(
        self,
        density: ArrayLike,
        parameters: ArrayLike,
        data: ArrayLike,
        *,
        confidence: float = 0.9,
        of: Of = "mean",
    ) -> tuple[Forecast, ...]:
        """Losses with bands; what lies outside the fitted densities, sizes or amounts is an
        extrapolation.
        """
        features = self._features(density, parameters, data)
        return self._forecasts(features, np.exp(features[0]), confidence, of)

    def predict(
        self,
        density: ArrayLike,
        parameters: ArrayLike,
        data: ArrayLike,
        *,
        confidence: float = 0.9,
        of: Of = "mean",
    ) -> Estimate | tuple[Estimate, ...]:
        """The loss at a density of a network of so many dense parameters (one estimate, or a tuple
        of arrays').
        """
        found = tuple(
            one.error
            for one in self.forecasts(density, parameters, data, confidence=confidence, of=of)
        )
        return found[0] if all(np.ndim(one) == 0 for one in (density, parameters, data)) else found

    def density_for(self, error: float, parameters: float, data: float) -> float:
        """The smallest density at which a network of so many dense parameters has at most this
        loss, by search.

        With b > e the loss has its minimum inside: the search is on the falling side.
        `UnreachableError` below that minimum.
        """
        grid = np.geomspace(LEAST, 1.0, 400)
        losses = self.curve(grid, parameters, data)
        best = int(np.argmin(losses))
        if not losses[best] <= error:
            raise UnreachableError(
                f"loss {error:g} is below every density's: the closest is {losses[best]:.4g} at "
                "density "
                f"{grid[best]:.3g}"
            )
        if losses[0] <= error:
            return LEAST
        log_d = brentq(
            lambda x: float(self.curve(np.exp(x), parameters, data)[0]) - error,
            np.log(LEAST),
            np.log(grid[best]),
            xtol=1e-12,
        )
        return float(np.exp(log_d))


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
    """Fit the sparse law to losses (n) at densities of networks of so many dense `parameters`,
    trained on `data`.

    The published fits are Huber's loss, quadratic up to `huber`, of the deviation of the loss
    (0.01, vision transformers) or of its logarithm (0.001, T5), from STARTS uniform starts drawn by
    `seed`; `on="relative"` with huber=None is the least squares of the other laws. Choose units in
    which parameters and data are near 1. Raises `CurveError` for numbers that no law is of,
    `InsufficientPointsError` for fewer than 14 points.

    >>> d, m, t = (
    ...     one.ravel() for one in np.meshgrid([1.0, 0.5, 0.25], [1.0, 4.0, 16.0], [1.0, 3.0, 9.0])
    ... )
    >>> loss = (1.3 * d**0.8 + 2.0) * (d * m) ** -0.4 + 0.9 * t**-0.5 + 1.0
    >>> law = fit_sparse_law(d, m, t, loss, huber=None, on="relative")
    >>> [round(value, 3) for value in law.coefficients.values()]
    [1.3, 0.8, 2.0, 0.4, 0.9, 0.5, 1.0]
    """
    try:
        d, m, amount, value = np.broadcast_arrays(
            *(np.atleast_1d(np.asarray(one, float)) for one in (density, parameters, data, loss))
        )
    except (TypeError, ValueError) as error:
        raise CurveError(
            "densities, parameters, data and losses are numbers, as many of each or one for all"
        ) from error
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
            "2 amounts of data cannot tell its exponent: 1 more would do, or one amount alone"
        )
    free = np.array([True, True, True, True, *([amounts > 1] * 2), True])
    lower = np.where(free, [-15.0, 0.0, -15.0, 0.0, -15.0, 0.0, -15.0], [0, 0, 0, 0, -30.0, 0, 0])
    upper = np.where(
        free, [10.0, 10.0, 10.0, 5.0, 10.0, 5.0, np.log(value.max())], [0, 0, 0, 0, -30.0, 0, 0]
    )
    drawn = np.random.default_rng(seed).uniform(size=(STARTS, 7))
    logs = np.array([name.startswith("log_") for name in SparseForm.names])
    starts = np.clip(np.where(logs, np.log(drawn + 1e-6), drawn), lower, upper)
    starts[:, 6] = np.minimum(starts[:, 6] + np.log(value.min()), upper[6])
    problem = Problem(
        form=SparseForm(),
        box=Box(lower, upper),
        starts=starts,
        features=np.log([d, d * m, amount]),
        curves=gather_plain_curves(d, value),
        unpruned_sd=None,
    )
    problem.enough()
    fields = assemble_plain_fields(problem, np.log(d * m))
    if huber is not None or on != "relative":
        fields = _robust(problem, fields, huber, on)
    return SparseLaw(**fields)


def _robust(
    problem: Problem, fields: dict[str, Any], huber: float | None, on: str
) -> dict[str, Any]:
    """The same law at the minimum of Huber's loss, from the least-squares fit and from the
    starts.
    """
    rows, box, form, free = problem.rows, problem.box, problem.form, list(problem.box.free)
    base, zeros = np.array(fields["fit"].theta), np.zeros(len(problem.curves))

    def at(x: Floats) -> tuple[Floats, Floats]:
        theta = base.copy()
        theta[free] = x
        value, gradient = (one[0] for one in form.evaluate(theta[None], rows.features, zeros))
        if on == "log_loss":
            return value - rows.log_error, gradient[free]
        size = np.exp(value) if on == "loss" else np.exp(value - rows.log_error)
        return size - np.exp(rows.log_error if on == "loss" else zeros), size * gradient[free]

    def deviation(x: Floats) -> Floats:
        return at(x)[0]

    def jacobian(x: Floats) -> Floats:
        return at(x)[1].T

    best = min(
        (
            least_squares(
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
            for start in (base, *problem.starts[:3])
        ),
        key=lambda one: one.cost,
    )
    base[free] = best.x
    value, gradient = (one[0] for one in form.evaluate(base[None], rows.features, zeros))
    residual = np.expm1(value - rows.log_error)
    kept = list(fields["fit"].free)
    hessian = gradient[kept] @ gradient[kept].T
    sigma = float(np.sqrt((residual**2).sum() / max(1, len(residual) - len(free))))
    fitted = fields["fit"].model_copy(
        update={
            "theta": tuple(base.tolist()),
            "sigma": sigma,
            "noise": sigma,
            "unpruned_sd": sigma,
            "residual_mean": float(residual.mean()),
            "residual_sd": float(residual.std()),
            "covariance": tuple(
                map(tuple, (sigma**2 * np.linalg.pinv(hessian, hermitian=True)).tolist())
            ),
        }
    )
    points = tuple(
        point.model_copy(update={"fitted": float(fit)})
        for point, fit in zip(fields["points"], np.exp(value), strict=True)
    )
    return {**fields, "fit": fitted, "points": points}
