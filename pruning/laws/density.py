"""The law of one network: its error at every density, and the density of every error."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal, overload

import numpy as np
from numpy.typing import ArrayLike

from pruning.errors import ParameterError
from pruning.laws.assembly import Options, assemble_fields
from pruning.laws.curves import gather_curves
from pruning.laws.documents import Forecast
from pruning.laws.forms import Floats, evaluate_pruned_error
from pruning.laws.pruning_law import Of, PruningLaw
from pruning.schemas.report import Estimate


class DensityLaw(PruningLaw):
    """error(d) = e0 [(d^2 + p^2 r^2) / (d^2 + p^2)]^(gamma/2), r = (plateau/e0)^(1/gamma), e0 the
    unpruned error.
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
        """The densities between which the power law holds: p r, above which little is lost, and
        p.
        """
        return self.p * float((self.plateau / self.unpruned_error) ** (1 / self.gamma)), self.p

    @property
    def fit_range(self) -> tuple[float, float]:
        """The sparsest and the densest measured density."""
        return self.networks[0].sparsest, self.networks[0].densest

    def curve(self, density: ArrayLike) -> Floats:
        """The law at any density, without band and without refusal: for plots."""
        return evaluate_pruned_error(density, self.unpruned_error, self.gamma, self.p, self.plateau)

    def forecasts(
        self, density: ArrayLike, *, confidence: float = 0.9, of: Of = "mean"
    ) -> tuple[Forecast, ...]:
        """The error at each density with its band, whether that is an extrapolation, and what to
        know.
        """
        asked = np.atleast_1d(np.asarray(density, float))
        one = np.ones(len(asked))
        return self._forecasts(asked, one, one, self.unpruned_error * one, confidence, of)

    @overload
    def predict(self, density: float, *, confidence: float = 0.9, of: Of = "mean") -> Estimate: ...
    @overload
    def predict(
        self, density: Sequence[float] | Floats, *, confidence: float = 0.9, of: Of = "mean"
    ) -> tuple[Estimate, ...]: ...

    def predict(
        self, density: float | Sequence[float] | Floats, *, confidence: float = 0.9, of: Of = "mean"
    ) -> Estimate | tuple[Estimate, ...]:
        """The error at a density (one estimate) or at several (a tuple), with a band that covers
        with `confidence`.

        The band is of the curve (`of="mean"`: what many runs would have on average), or of one more
        run (`of="run"`). Below the sparsest measured density it is widened by what the back-test
        missed, growing with the root of the distance; raises `InsufficientPointsError` where no
        error of 1.5 times the unpruned one was seen.
        """
        found = tuple(one.error for one in self.forecasts(density, confidence=confidence, of=of))
        return found[0] if np.ndim(density) == 0 else found

    @overload
    def density_for(self, error: float) -> float: ...
    @overload
    def density_for(self, error: Sequence[float] | Floats) -> Floats: ...

    def density_for(self, error: float | Sequence[float] | Floats) -> float | Floats:
        """The smallest density whose error is at most so much: p sqrt((r^2 - s^2) / (s^2 - 1)), s =
        (error/e0)^(1/gamma).

        1 where only the unpruned network does, 0 at the plateau and above. Raises
        `UnreachableError` below the unpruned error, and as `predict` where that density is beyond
        what was measured.
        """
        found = self._densities(
            np.atleast_1d(np.asarray(error, float)),
            np.array(1.0),
            np.array(1.0),
            np.array(self.unpruned_error),
        )
        return float(found[0]) if np.ndim(error) == 0 else found


def fit_density_law(
    density: ArrayLike,
    error: ArrayLike,
    unpruned_error: ArrayLike,
    *,
    classes: int | None = None,
    plateau: float | None = None,
    images: int | None = None,
    trial: Sequence[Hashable] | None = None,
    unpruned_sd: float | None = None,
    refits: int = 0,
    seed: int = 0,
) -> DensityLaw:
    """Fit the law of one network to its errors at several densities: least sum of squared relative
    deviations.

    `density` and `error` (n) are of pruned networks, `unpruned_error` is observed and not fitted.
    Runs of one density are averaged; `trial` tells which runs belong together, and then every trial
    may have its own unpruned error. `classes` gives chance, 1 - 1/classes: the plateau is there
    unless an error is above half of it, or `plateau` fixes it. `images` is how many each error was
    measured on. `unpruned_sd` is how uncertain the unpruned error is, relatively (None: as a point
    is). With `refits`, bands are from that many fits to resampled data, drawn by `seed`; else by
    the delta method.

    Raises `CurveError` for points that no law is of, `InsufficientPointsError` for too few.
    Rosenfeld et al., ICML 2021.

    >>> law = fit_density_law(
    ...     [0.8, 0.4, 0.2, 0.1, 0.05],
    ...     [0.08106, 0.08408, 0.09401, 0.12004, 0.16980],
    ...     0.08,
    ...     classes=10,
    ... )
    >>> round(law.gamma, 2), round(law.density_for(0.16), 3)
    (0.59, 0.056)
    >>> found = law.predict(0.07)
    >>> found.low < found.value < found.high
    True
    """
    options = Options(
        classes=classes,
        plateau=plateau,
        images=images,
        unpruned_sd=unpruned_sd,
        refits=refits,
        seed=seed,
    )
    given = np.unique(np.asarray(unpruned_error, float))
    if trial is None and given.size > 1:
        raise ParameterError(
            f"unpruned_error: {given.size} values for one network; one, or one a run with `trial`"
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
