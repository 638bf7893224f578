"""The law of one network: its error at every density, and the density of every error."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal, overload

import numpy as np
from numpy.typing import ArrayLike

from pruning.errors import ParameterError
from pruning.laws.assembly import Options, assemble_fields
from pruning.laws.bands import BandTarget
from pruning.laws.curves import gather_curves
from pruning.laws.documents import Forecast
from pruning.laws.forms import Floats, evaluate_pruned_error
from pruning.laws.pruning_law import PruningLaw
from pruning.schemas.report import Estimate


class DensityLaw(PruningLaw):
    """error(d) = e0 [(d^2 + p^2 r^2) / (d^2 + p^2)]^(gamma/2) of one network.

    r = (plateau/e0)^(1/gamma), and e0 is the unpruned error.
    """

    kind: Literal["density"] = "density"

    @property
    def unpruned_error(self) -> float:
        """The observed error without pruning."""
        return self.networks[0].unpruned_error

    @property
    def p(self) -> float:
        """The density at which the power law passes into the plateau."""
        return float(np.exp(self.fit.theta[1]))

    @property
    def transitions(self) -> tuple[float, float]:
        """The densities between which the power law holds: p r, above it little is lost, and p."""
        r = float((self.plateau / self.unpruned_error) ** (1 / self.gamma))
        return self.p * r, self.p

    @property
    def fit_range(self) -> tuple[float, float]:
        """The sparsest and the densest measured density."""
        return self.networks[0].sparsest, self.networks[0].densest

    def curve(self, density: ArrayLike) -> Floats:
        """The law at any density, without band and without refusal: for plots."""
        return evaluate_pruned_error(density, self.unpruned_error, self.gamma, self.p, self.plateau)

    def forecasts(
        self, density: ArrayLike, *, confidence: float = 0.9, of: BandTarget = "run"
    ) -> tuple[Forecast, ...]:
        """The error at each density with its band, whether it is an extrapolation, and notes."""
        densities = np.atleast_1d(np.asarray(density, float))
        ones = np.ones(len(densities))
        return self._forecast_points(
            density=densities,
            depth=ones,
            width=ones,
            unpruned=self.unpruned_error * ones,
            confidence=confidence,
            of=of,
        )

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
        """The error at a density (one estimate) or at several (a tuple), with its band.

        The band covers with `confidence`: one more run under another seed (`of="run"`), or the
        curve (`of="curve"`, the mean of many runs). Below the sparsest measured density it is
        widened by the errors of the back-test, growing with the root of the distance; raises
        `InsufficientPointsError` there where no error of 1.5 times the unpruned one was measured,
        or a parameter ended at a limit of the fit.
        """
        forecasts = self.forecasts(density, confidence=confidence, of=of)
        estimates = tuple(forecast.error for forecast in forecasts)
        return estimates[0] if np.ndim(density) == 0 else estimates

    @overload
    def density_for(self, error: float) -> float: ...
    @overload
    def density_for(self, error: Sequence[float] | Floats) -> Floats: ...

    def density_for(self, error: float | Sequence[float] | Floats) -> float | Floats:
        """The smallest density whose error is at most `error`: p sqrt((r^2 - s^2) / (s^2 - 1)).

        s = (error/e0)^(1/gamma). The density is 1 where only the unpruned network does, 0 at the
        plateau and above. Raises `UnreachableError` below the unpruned error, and as `predict`
        where that density is beyond what was measured.
        """
        density = self._invert(
            error=np.atleast_1d(np.asarray(error, float)),
            depth=np.array(1.0),
            width=np.array(1.0),
            unpruned=np.array(self.unpruned_error),
        )
        return float(density[0]) if np.ndim(error) == 0 else density


def fit_density_law(  # noqa: PLR0913 - the options of a fit, by keyword
    density: ArrayLike,
    error: ArrayLike,
    unpruned_error: ArrayLike,
    *,
    classes: int | None = None,
    guessing_error: float | None = None,
    plateau: float | None = None,
    images: int | None = None,
    trial: Sequence[Hashable] | None = None,
    unpruned_sd: float | None = None,
    refits: int = 0,
    seed: int = 0,
) -> DensityLaw:
    """Fit the law of one network to its errors at several densities.

    The fit has the least sum of squared relative deviations. `density` and `error` (n) are of
    pruned networks, `unpruned_error` is observed and not fitted. Runs of one density are averaged;
    `trial` labels the runs that belong together, and then every trial may have its own unpruned
    error. Chance is `guessing_error`, that of the best constant answer on the labels, or else
    1 - 1/classes: the plateau is there unless an error is above half of it, or `plateau` fixes it.
    `images` is the number of images that each error was measured on.
    `unpruned_sd` is the relative standard deviation of the unpruned error (None: that of a point).
    With `refits`, bands are from that many fits to resampled data, drawn by `seed`; else by the
    delta method.

    Raises `CurveError` for points that no law can describe, `InsufficientPointsError` for too few.
    Rosenfeld et al., ICML 2021.

    >>> law = fit_density_law(
    ...     [0.8, 0.4, 0.2, 0.1, 0.05],
    ...     [0.08106, 0.08408, 0.09401, 0.12004, 0.16980],
    ...     0.08,
    ...     classes=10,
    ... )
    >>> round(law.gamma, 2), round(law.density_for(0.16), 3)
    (0.59, 0.056)
    >>> estimate = law.predict(0.07)
    >>> estimate.low < estimate.value < estimate.high
    True
    """
    options = Options(
        classes=classes,
        guessing_error=guessing_error,
        plateau=plateau,
        images=images,
        unpruned_sd=unpruned_sd,
        refits=refits,
        seed=seed,
    )
    unpruned_errors = np.unique(np.asarray(unpruned_error, float))
    if trial is None and unpruned_errors.size > 1:
        raise ParameterError(
            f"unpruned_error: {unpruned_errors.size} values for one network; one for all, or one "
            "for each run with `trial`"
        )
    curves = gather_curves(
        density,
        error,
        unpruned_error,
        chance=options.chance,
        images=images,
        trial=trial,
        network=None if trial is None else [0] * int(np.size(density)),
    )
    return DensityLaw(**assemble_fields(curves, (False, False), options))
