"""What the laws without an unpruned error share: a fit, forecasts with bands, and how far they are
from the data.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from pruning.errors import InsufficientPointsError, ParameterError
from pruning.laws import bands
from pruning.laws.bands import Query
from pruning.laws.curves import ILL_CONDITIONED, Curves
from pruning.laws.documents import (
    BackTest,
    Fit,
    Folds,
    Forecast,
    Held,
    Numbers,
    Point,
    average_held_out,
)
from pruning.laws.fitting import HOLD_OUT, Problem, fit_curves, leave_out
from pruning.laws.forms import Flags, Floats, Form
from pruning.laws.pruning_law import Of
from pruning.laws.solver import minimise_from_starts
from pruning.schemas.base import Document
from pruning.schemas.report import Estimate


class PlainLaw(Document):
    """A fitted law of features alone: numbers, so that it is stored as JSON and asked later."""

    form: ClassVar[Form]
    fit: Fit
    points: tuple[Point, ...]
    ranges: tuple[tuple[float, float], ...]
    """The smallest and largest ln of every feature."""
    folds: Folds | None
    back_test: BackTest | None
    warnings: tuple[str, ...]

    @property
    def sigma(self) -> float:
        """Relative standard deviation of a measured error about the law."""
        return self.fit.sigma

    @property
    def condition(self) -> float | None:
        """Condition number of the free parameters."""
        return self.fit.condition

    @property
    def covariance(self) -> tuple[Numbers, ...]:
        """Covariance of the free parameters, in the order of `fit.free`."""
        return self.fit.covariance

    @property
    def held_out(self) -> float | None:
        """Mean |error(law) / error - 1| at points that were left out, the sparsest aside."""
        return average_held_out(self.folds, self.points)

    def _values(self, features: Floats) -> Floats:
        theta = np.array(self.fit.theta)[None]
        return np.asarray(
            np.exp(self.form.evaluate(theta, features, np.zeros(features.shape[1]))[0][0])
        )

    def _forecasts(
        self, features: Floats, density: Floats, confidence: float, of: Of
    ) -> tuple[Forecast, ...]:
        if not 0 < confidence < 1:
            raise ParameterError(f"confidence: {confidence:g}; between 0 and 1")
        if of not in ("mean", "run"):
            raise ParameterError(
                f"of: {of!r}; 'mean' (the law's curve) or 'run' (one more measured network)"
            )
        if not np.isfinite(features).all():
            raise ParameterError("every density, size and amount is a number above 0")
        n = features.shape[1]
        beyond = sum(
            (
                np.maximum(0.0, low - row - 1e-9) + np.maximum(0.0, row - high - 1e-9)
                for row, (low, high) in zip(features, self.ranges, strict=True)
            ),
            np.zeros(n),
        )
        if (beyond > 0).any() and self.back_test is None:
            raise InsufficientPointsError(
                f"what is asked is beyond what was measured, and {self.warnings[-1]}"
            )
        query = Query(features, np.zeros(n), np.zeros(n, int))
        sd = bands.compute_deviation(self.form, self.fit, np.zeros((1, len(self.fit.free))), query)
        spread = np.hypot(sd, self.fit.sigma if of == "run" else 0.0)
        low, high = bands.build_normal_band(spread, self.fit.degrees_of_freedom, confidence)
        if of == "run" and self.folds is not None:
            band = bands.build_conformal_band(
                self.form,
                self.fit,
                folds=self.folds,
                query=query,
                noise=np.ones(n),
                confidence=confidence,
            )
            if band is not None:
                low, high = (
                    np.where(beyond > 0, plain, one)
                    for plain, one in zip((low, high), band, strict=True)
                )
        if self.back_test is not None:
            low, high = bands.add_deviation(
                (low, high),
                self.back_test.root_mean_square * np.sqrt(beyond / self.back_test.reach),
                len(self.back_test.points),
                confidence,
            )
        value = self._values(features)
        return tuple(
            Forecast(
                density=float(density[i]),
                extrapolated=bool(beyond[i] > 0),
                error=Estimate(
                    value=float(value[i]),
                    low=float(value[i] * np.exp(-low[i])),
                    high=float(value[i] * np.exp(min(high[i], 700.0))),
                    n=len(self.points),
                ),
                notes=("extrapolated: beyond what was measured",) * bool(beyond[i] > 0),
            )
            for i in range(n)
        )


def assemble_plain_fields(problem: Problem, order: Floats) -> dict[str, Any]:
    """The fields of a plain law; the back-test fits the points of smallest `order` and predicts the
    others.

    Raises `InsufficientPointsError` for fewer than two points a free parameter.
    """
    problem.enough()
    found, _ = fit_curves(problem)
    theta, rows, curves = np.array(found.theta), problem.rows, problem.curves
    value = problem.form.evaluate(theta[None], rows.features, rows.log_unpruned)[0][0]
    warnings = list(curves.warnings)
    if found.condition is not None and found.condition > ILL_CONDITIONED:
        warnings.append(
            "the parameters are not determined one by one (condition number "
            f"{found.condition:.1e}): trust the "
            "values of the law, not them"
        )
    resting = [problem.form.names[i] for i in problem.box.free if i not in found.free]
    if resting:
        warnings.append(
            f"{', '.join(resting)} at a limit of the fit: the points do not determine it"
        )
    held = np.zeros(len(curves), bool)
    held[np.argsort(order, kind="stable")[len(curves) - int(len(curves) * HOLD_OUT) :]] = True
    tested = None
    if (~held).sum() > len(problem.box.free):
        tested = _back_test(problem, held, order)
    if tested is None:
        warnings.append(
            f"no back-test: {len(curves)} points are too few to hold some out; "
            f"{2 * len(problem.box.free) + 2} of different sizes would do"
        )
    return {
        "fit": found,
        "warnings": tuple(warnings),
        "folds": leave_out(problem, theta, "points"),
        "back_test": tested,
        "ranges": tuple((float(row.min()), float(row.max())) for row in problem.features),
        "points": tuple(
            Point(network=int(k), density=float(d), error=float(e), fitted=float(f))
            for k, d, e, f in zip(
                curves.network, curves.density, curves.error, np.exp(value), strict=True
            )
        ),
    }


def _back_test(problem: Problem, held: Flags, order: Floats) -> BackTest | None:
    rows, curves = problem.rows, problem.curves
    reach = float((order[held] - order[~held].max()).mean())
    if not reach > 0:
        return None
    theta = minimise_from_starts(problem.form, problem.starts, problem.box, rows.points(~held))
    value = problem.form.evaluate(theta[None], rows.features, rows.log_unpruned)[0][0]
    deviation = value[held] - rows.log_error[held]
    return BackTest(
        points=tuple(
            Held(
                network=int(curves.network[i]),
                density=float(curves.density[i]),
                measured=float(curves.error[i]),
                predicted=float(np.exp(value[i])),
            )
            for i in np.flatnonzero(held)
        ),
        mean_absolute=float(np.abs(np.expm1(deviation)).mean()),
        bias=float(np.expm1(deviation).mean()),
        root_mean_square=float(np.sqrt((deviation**2).mean())),
        reach=reach,
        highest_rise=None,
    )


def gather_plain_curves(density: Floats, error: Floats, warnings: tuple[str, ...] = ()) -> Curves:
    """Points of a law that knows no unpruned errors."""
    n = len(error)
    one = np.ones(1)
    return Curves(
        density=density,
        error=error,
        network=np.zeros(n, int),
        depth=one,
        width=one,
        unpruned=one,
        weight=np.ones(n),
        cells=error[:, None],
        unpruned_cells=one[:, None],
        unpruned_weight=one,
        warnings=warnings,
    )
