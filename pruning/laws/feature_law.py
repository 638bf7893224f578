"""The base of the laws without an unpruned error: a fit, and forecasts with bands."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from pruning.errors import InsufficientPointsError, ParameterError
from pruning.laws import bands
from pruning.laws.assembly import list_points, name_resting_parameters
from pruning.laws.bands import BandTarget, Query
from pruning.laws.curves import ILL_CONDITIONED, Curves
from pruning.laws.documents import (
    BackTest,
    Fit,
    Folds,
    Forecast,
    Numbers,
    Point,
    average_held_out,
)
from pruning.laws.fitting import (
    HOLD_OUT,
    Problem,
    fit_curves,
    leave_out,
    summarise_back_test,
)
from pruning.laws.forms import Flags, Floats, Form
from pruning.laws.seeds import SeedEffect
from pruning.laws.solver import minimise_from_starts
from pruning.schemas.base import Document
from pruning.schemas.report import Estimate


class PlainLaw(Document):
    """A fitted law of features alone: numbers only, which are stored as JSON and asked later."""

    form: ClassVar[Form]
    fit: Fit
    points: tuple[Point, ...]
    ranges: tuple[tuple[float, float], ...]
    """The smallest and largest ln of every feature."""
    folds: Folds | None
    back_test: BackTest | None
    warnings: tuple[str, ...]
    seed_effect: SeedEffect | None = None
    """The effect of another seed on all points together; `null` where every point is a network of
    its own, whose seed is in `sigma`.
    """

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
        """Mean |error(law) / error - 1| at points that were left out, without the sparsest."""
        return average_held_out(self.folds, self.points)

    def _predict_errors(self, features: Floats) -> Floats:
        """The errors of the law at the features (F, n), (n,)."""
        theta = np.array(self.fit.theta)[None]
        log_error, _ = self.form.evaluate(theta, features, np.zeros(features.shape[1]))
        return np.asarray(np.exp(log_error[0]))

    def _forecast_points(
        self, features: Floats, density: Floats, confidence: float, of: BandTarget
    ) -> tuple[Forecast, ...]:
        """Errors with bands; `InsufficientPointsError` beyond the data without a back-test."""
        bands.check_band(confidence, of)
        if not np.isfinite(features).all():
            raise ParameterError("every density, size and amount is a number above 0")
        beyond = self._measure_beyond(features)
        if (beyond > 0).any() and self.back_test is None:
            raise InsufficientPointsError(
                f"this point is beyond what was measured, and {self.warnings[-1]}"
            )
        below, above = self._build_band(features, beyond, confidence, of)
        if of == "run" and self.seed_effect is not None:
            # The curve that was fitted and the one to come have a seed each.
            moved = self.seed_effect.compute_half_width(
                np.full(len(below), math.sqrt(2) * self.seed_effect.sd), confidence
            )
            below, above = np.hypot(below, moved), np.hypot(above, moved)
        value = self._predict_errors(features)
        forecasts = []
        for i in range(len(value)):
            extrapolated = bool(beyond[i] > 0)
            error = Estimate(
                value=float(value[i]),
                low=float(value[i] * np.exp(-below[i])),
                high=float(value[i] * np.exp(min(above[i], 700.0))),  # e^700 is still a float
                n=len(self.points),
                unit="fraction",
            )
            forecast = Forecast(
                density=float(density[i]),
                extrapolated=extrapolated,
                error=error,
                notes=("extrapolated: beyond what was measured",) if extrapolated else (),
            )
            forecasts.append(forecast)
        return tuple(forecasts)

    def _measure_beyond(self, features: Floats) -> Floats:
        """The distance outside the fitted ranges, in ln, summed over the features; (n,)."""
        distance = np.zeros(features.shape[1])
        for row, (low, high) in zip(features, self.ranges, strict=True):
            distance = distance + (
                np.maximum(0.0, low - row - 1e-9) + np.maximum(0.0, row - high - 1e-9)
            )
        return distance

    def _build_band(
        self, features: Floats, beyond: Floats, confidence: float, of: BandTarget
    ) -> bands.Band:
        n = features.shape[1]
        # These laws have no unpruned error: one network, whose ln unpruned error is 0 and exact.
        query = Query(features, np.zeros(n), np.zeros(n, int))
        responses = np.zeros((1, len(self.fit.free)))
        sd = bands.compute_deviation(self.form, self.fit, responses, query)
        spread = np.hypot(sd, self.fit.sigma if of == "run" else 0.0)
        below, above = bands.build_normal_band(spread, self.fit.degrees_of_freedom, confidence)
        conformal = None
        if of == "run" and self.folds is not None:
            conformal = bands.build_conformal_band(
                self.form,
                self.fit,
                folds=self.folds,
                query=query,
                noise=np.ones(n),
                confidence=confidence,
            )
        if conformal is not None:
            below = np.where(beyond > 0, below, conformal[0])
            above = np.where(beyond > 0, above, conformal[1])
        if self.back_test is None:
            return below, above
        extra = self.back_test.root_mean_square * np.sqrt(beyond / self.back_test.reach)
        return bands.add_deviation((below, above), extra, len(self.back_test.points), confidence)


def assemble_plain_fields(problem: Problem, order: Floats) -> dict[str, Any]:
    """The fields of a plain law; the back-test fits the points of smallest `order` and predicts the
    others.

    Raises `InsufficientPointsError` for fewer than two points for each free parameter.
    """
    problem.check_enough_points()
    fit, _ = fit_curves(problem)
    theta, rows, curves = np.array(fit.theta), problem.rows, problem.curves
    value = problem.form.evaluate(theta[None], rows.features, rows.log_unpruned)[0][0]
    warnings = list(curves.warnings)
    if fit.condition is not None and fit.condition > ILL_CONDITIONED:
        warnings.append(
            "the parameters are not determined one by one (condition number "
            f"{fit.condition:.1e}): trust the values of the law, not them"
        )
    warnings += name_resting_parameters(problem, fit)
    held = np.zeros(len(curves), bool)
    fitted = len(curves) - int(len(curves) * HOLD_OUT)
    held[np.argsort(order, kind="stable")[fitted:]] = True
    back_tested = None
    if (~held).sum() > len(problem.box.free):
        back_tested = _back_test(problem, held, order)
    if back_tested is None:  # the last one: a refusal to extrapolate quotes it
        warnings.append(
            f"no back-test: {len(curves)} points are too few to hold some out; "
            f"{2 * len(problem.box.free) + 2} of different sizes would do"
        )
    return {
        "fit": fit,
        "warnings": tuple(warnings),
        "folds": leave_out(problem, theta, "points"),
        "back_test": back_tested,
        "ranges": tuple((float(row.min()), float(row.max())) for row in problem.features),
        "points": list_points(curves, np.exp(value)),
    }


def _back_test(problem: Problem, held: Flags, order: Floats) -> BackTest | None:
    """Fit without the points `held` and predict them; None where their order is not beyond."""
    rows = problem.rows
    reach = float((order[held] - order[~held].max()).mean())
    if not reach > 0:
        return None
    theta = minimise_from_starts(
        problem.form, problem.starts, problem.box, rows.select_points(~held)
    )
    value = problem.form.evaluate(theta[None], rows.features, rows.log_unpruned)[0][0]
    return summarise_back_test(problem, held, value, reach=reach, highest_rise=None)


def gather_plain_curves(density: Floats, error: Floats, warnings: tuple[str, ...] = ()) -> Curves:
    """Points of a law without unpruned errors: one network, whose unpruned error is 1."""
    n = len(error)
    ones = np.ones(1)
    return Curves(
        density=density,
        error=error,
        network=np.zeros(n, int),
        depth=ones,
        width=ones,
        unpruned=ones,
        weight=np.ones(n),
        cells=error[:, None],
        unpruned_cells=ones[:, None],
        unpruned_weight=ones,
        warnings=warnings,
    )
