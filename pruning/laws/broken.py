"""A challenger that knows nothing of pruning: the broken power law, with one break or none.

    error(d) = a + b d^-c0 (1 + (d / d1)^(1 / f1))^(-c1 f1)

Caballero, Gupta, Rish, Krueger, Broken Neural Scaling Laws, ICLR 2023.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar, Literal, overload

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from pruning.errors import InsufficientPointsError, ParameterError, UnreachableError
from pruning.laws.assembly import Options
from pruning.laws.bands import BandTarget
from pruning.laws.curves import gather_curves
from pruning.laws.documents import Forecast
from pruning.laws.feature_law import PlainLaw, assemble_plain_fields, gather_plain_curves
from pruning.laws.fitting import Problem
from pruning.laws.forms import Floats, softplus
from pruning.laws.seeds import SeedEffect
from pruning.laws.solver import Box
from pruning.schemas.report import Estimate

ALMOST_NONE = np.log(1e-12)
"""The lower limit of ln a and ln b: nothing, as far as an error goes."""
LEAST = 1e-9
"""The smallest density of a search."""


class BrokenForm:
    """The broken power law in theta = (ln a, ln b, c0, ln d1, ln f1, c1); feature ln density.

    >>> theta = np.array([[np.log(0.1), np.log(0.02), 0.5, 0.0, 0.0, 0.0]])
    >>> value, _ = BrokenForm().evaluate(theta, np.log([[0.25]]), np.zeros(1))
    >>> round(float(np.exp(value[0, 0])), 6)
    0.14
    """

    names: ClassVar[tuple[str, ...]] = ("log_a", "log_b", "c0", "log_d1", "log_f1", "c1")

    def evaluate(
        self, theta: Floats, features: Floats, log_unpruned: Floats
    ) -> tuple[Floats, Floats]:
        """ln(a + T) and its gradient, T / (a + T) times that of ln T; no unpruned error enters."""
        log_a, log_b, c0, log_d1, log_f1, c1 = (column[:, None] for column in theta.T)
        (log_d,) = features
        f1 = np.exp(log_f1)
        z = (log_d - log_d1) / f1
        soft, bend = softplus(z)
        term = log_b - c0 * log_d - c1 * f1 * soft
        value = np.logaddexp(log_a, term)
        share = np.exp(term - value)
        gradient = np.stack(
            [
                1 - share,
                share,
                -share * log_d,
                share * c1 * bend,
                share * c1 * f1 * (bend * z - soft),
                -share * f1 * soft,
                np.zeros_like(value),
            ],
            axis=1,
        )
        return value, gradient


class BrokenLaw(PlainLaw):
    """error(d) = a + b d^-c0 (1 + (d/d1)^(1/f1))^(-c1 f1), falling with density d.

    a, b > 0 and c0, c1 >= 0.
    """

    form: ClassVar[BrokenForm] = BrokenForm()
    kind: Literal["broken"] = "broken"
    seed_effect: SeedEffect | None = SeedEffect()

    @property
    def plateau(self) -> float | None:
        """The error with nothing left, a + b; None where the law grows without end (c0 > 0)."""
        log_a, log_b, c0, *_ = self.fit.theta
        return float(np.exp(log_a) + np.exp(log_b)) if c0 == 0 else None

    @property
    def transitions(self) -> tuple[float, ...]:
        """The density d1 at which the slope changes from c0 to c0 + c1; none without a break."""
        return (float(np.exp(self.fit.theta[3])),) if self.fit.theta[5] > 0 else ()

    @property
    def fit_range(self) -> tuple[float, float]:
        """The densities of the sparsest and the densest point."""
        least, most = self.ranges[0]
        return float(np.exp(least)), float(np.exp(most))

    def curve(self, density: ArrayLike) -> Floats:
        """The law at any density, without band: for plots."""
        return self._predict_errors(np.log(np.atleast_1d(np.asarray(density, float)))[None])

    def forecasts(
        self, density: ArrayLike, *, confidence: float = 0.9, of: BandTarget = "run"
    ) -> tuple[Forecast, ...]:
        """The error at each density with its band."""
        densities = np.atleast_1d(np.asarray(density, float))
        if not ((densities > 0) & (densities <= 1)).all():
            raise ParameterError("density: above 0 and at most 1")
        return self._forecast_points(np.log(densities)[None], densities, confidence, of)

    @overload
    def predict(
        self, density: float, *, confidence: float = 0.9, of: BandTarget = "run"
    ) -> Estimate: ...
    @overload
    def predict(
        self, density: Sequence[float] | Floats, *, confidence: float = 0.9, of: BandTarget = "run"
    ) -> tuple[Estimate, ...]: ...

    def predict(
        self,
        density: float | Sequence[float] | Floats,
        *,
        confidence: float = 0.9,
        of: BandTarget = "run",
    ) -> Estimate | tuple[Estimate, ...]:
        """The error at a density (one estimate) or several (a tuple), with its band."""
        forecasts = self.forecasts(density, confidence=confidence, of=of)
        estimates = tuple(forecast.error for forecast in forecasts)
        return estimates[0] if np.ndim(density) == 0 else estimates

    def density_for(self, error: float) -> float:
        """The smallest density whose error is at most `error`, by search.

        Raises `UnreachableError` below the error of the law at density 1.
        """

        def excess(log_density: float) -> float:
            return float(self.curve(np.exp(log_density))[0]) - error

        least_error = float(self.curve(1.0)[0])
        if not least_error <= error:
            raise UnreachableError(
                f"error {error:g} is below that of the law without pruning: the closest is "
                f"{least_error:.4g} at density 1"
            )
        if float(self.curve(LEAST)[0]) <= error:
            return 0.0
        density = float(np.exp(brentq(excess, np.log(LEAST), 0.0, xtol=1e-12)))
        if density < self.fit_range[0] and self.back_test is None:
            raise InsufficientPointsError(
                f"density {density:.3g} is beyond what was measured; {self.warnings[-1]}"
            )
        return density


def fit_broken_law(
    density: ArrayLike,
    error: ArrayLike,
    unpruned_error: float,
    *,
    breaks: Literal[0, 1] = 1,
    classes: int | None = None,
    guessing_error: float | None = None,
) -> BrokenLaw:
    """Fit the broken power law to one network; the unpruned error is one more point, at density 1.

    Least squares of relative deviations as for the pruning law, so that the two compare. Without a
    break three parameters, with one six; two points for each. Raises `CurveError` and
    `InsufficientPointsError`.

    >>> d = 0.8 ** np.arange(1, 20)
    >>> law = fit_broken_law(d, 0.08 + 0.002 * d**-0.9, 0.082, breaks=0)
    >>> round(law.density_for(0.1), 4), law.transitions
    (0.0774, ())
    """
    if breaks not in (0, 1):
        raise ParameterError(f"breaks: {breaks}; 0 or 1")
    options = Options(
        classes=classes,
        guessing_error=guessing_error,
        plateau=None,
        images=None,
        unpruned_sd=None,
        refits=0,
        seed=0,
    )
    curves = gather_curves(density, error, unpruned_error, chance=options.chance)
    d = np.append(curves.density, 1.0)
    e = np.append(curves.error, float(np.asarray(unpruned_error)))
    box, starts = _choose_limits(d, e, breaks)
    problem = Problem(
        form=BrokenForm(),
        box=box,
        starts=np.clip(starts, box.lower, box.upper),
        features=np.log(d)[None],
        curves=gather_plain_curves(d, e, curves.warnings),
        unpruned_sd=None,
    )
    return BrokenLaw(**assemble_plain_fields(problem, -np.log(d)))


def _choose_limits(d: Floats, e: Floats, breaks: int) -> tuple[Box, Floats]:
    """The limits of theta for densities and errors (n,), and the starts (B, 6).

    Without a break the last three parameters are fixed at 0.
    """
    sparsest = float(d.min())
    broken = float(breaks)
    lower = np.array(
        [
            ALMOST_NONE,
            ALMOST_NONE,
            0.0,
            np.log(sparsest / 10) * broken,
            np.log(0.02) * broken,
            0.0,
        ]
    )
    upper = np.array(
        [np.log(e.min()), np.log(100.0), 5.0, 0.0, np.log(5.0) * broken, 10.0 * broken]
    )
    log_d1_starts = (np.log(sparsest), np.log(sparsest) / 2) if breaks else (0.0,)
    c1_starts = (0.5, 2.0) if breaks else (0.0,)
    starts = np.array(
        [
            [
                np.log(e.min() * floor),
                np.log(e.max() - 0.9 * e.min() * floor),
                c0,
                log_d1 * broken,
                np.log(0.5) * broken,
                c1 * broken,
            ]
            for floor, c0, log_d1, c1 in itertools.product(
                (0.5, 0.95), (0.0, 0.3, 1.0), log_d1_starts, c1_starts
            )
        ]
    )
    if not breaks:  # without a plateau b is the error's scale at density 1
        starts[:, 1] = np.log(e.max() - e.min() * 0.5) + starts[:, 2] * np.log(sparsest)
    return Box(lower, upper), starts
