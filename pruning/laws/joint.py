"""The law of a family: depth and width enter by the invariant depth^phi width^psi density alone."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from pruning.errors import SecateurError
from pruning.laws.assembly import Options, assemble_fields, find_varying
from pruning.laws.bands import BandTarget
from pruning.laws.curves import gather_curves
from pruning.laws.documents import Forecast
from pruning.laws.fitting import ENOUGH_NETWORKS
from pruning.laws.forms import Floats, broadcast_floats, evaluate_pruned_error
from pruning.laws.pruning_law import PruningLaw
from pruning.schemas.report import Estimate

REFITS = 200
"""The number of refits where networks are resampled and no number is asked for."""


class JointLaw(PruningLaw):
    """error = e0 [(m^2 + p^2 r^2) / (m^2 + p^2)]^(gamma/2), m = depth^phi width^psi density.

    r = (plateau/e0)^(1/gamma). Five constants serve all networks; training images and the like
    enter only by e0, the unpruned error, which is each network's own.
    """

    kind: Literal["joint"] = "joint"

    @property
    def phi(self) -> float:
        """The exponent of depth; 0 where all depths are equal."""
        return self.fit.theta[3]

    @property
    def psi(self) -> float:
        """The exponent of width; 0 where all widths are equal."""
        return self.fit.theta[4]

    @property
    def p(self) -> float:
        """The invariant at which the power law passes into the plateau: the paper's p'."""
        depth, width = self.centre
        return float(np.exp(self.fit.theta[1]) * depth**self.phi * width**self.psi)

    @property
    def fit_range(self) -> dict[str, tuple[float, float]]:
        """The smallest and the largest measured value of each quantity."""
        ranges = {
            "density": (
                min(network.sparsest for network in self.networks),
                max(network.densest for network in self.networks),
            )
        }
        for name in ("depth", "width", "unpruned_error"):
            values = [getattr(network, name) for network in self.networks]
            ranges[name] = (min(values), max(values))
        return ranges

    def transitions(self, depth: float, width: float, unpruned_error: float) -> tuple[float, float]:
        """The densities of one network between which the power law holds.

        The first is above 1 where pruning raises the error from the first weight on.
        """
        p = float(self.locate_threshold(np.array(depth), np.array(width)))
        return p * float((self.plateau / unpruned_error) ** (1 / self.gamma)), p

    def invariant(self, depth: ArrayLike, width: ArrayLike, density: ArrayLike) -> Floats:
        """m = depth^phi width^psi density: equal m and equal unpruned error mean equal error."""
        depth, width, density = (np.asarray(values, float) for values in (depth, width, density))
        return np.asarray(depth**self.phi * width**self.psi * density)

    def curve(
        self, depth: ArrayLike, width: ArrayLike, density: ArrayLike, unpruned_error: ArrayLike
    ) -> Floats:
        """The law anywhere, without band and without refusal: for plots."""
        return evaluate_pruned_error(
            self.invariant(depth, width, density), unpruned_error, self.gamma, self.p, self.plateau
        )

    def forecasts(  # noqa: PLR0913 - a network, a density, and options by keyword
        self,
        depth: ArrayLike,
        width: ArrayLike,
        density: ArrayLike,
        unpruned_error: ArrayLike,
        *,
        confidence: float = 0.9,
        of: BandTarget = "run",
        unpruned_sd: float | None = None,
        seed_sd: float | None = None,
    ) -> tuple[Forecast, ...]:
        """Errors with bands, whether they are extrapolations, and notes; the arguments broadcast.

        `unpruned_sd` is the relative standard deviation of an unpruned error that was not measured
        in the fit: 0 for an exact one, that of the dense law for a predicted one (None: as in the
        fit). `seed_sd` is that of one more curve of the network as a whole (None: the effect of a
        seed, on the curve to come and on those that were fitted).
        """
        density, depth, width, unpruned = broadcast_floats(density, depth, width, unpruned_error)
        return self._forecast_points(
            density=density,
            depth=depth,
            width=width,
            unpruned=unpruned,
            confidence=confidence,
            of=of,
            unpruned_sd=unpruned_sd,
            seed_sd=seed_sd,
        )

    def refusals(
        self, depth: float, width: float, densities: Sequence[float], unpruned_error: float
    ) -> list[SecateurError | None]:
        """The refusals of `forecasts` for a network at each density; `None` where it answers."""
        ones = np.ones(len(densities))
        try:
            query = self._build_query(
                np.array(densities), depth * ones, width * ones, unpruned_error * ones
            )
        except SecateurError as refusal:
            return [refusal] * len(densities)
        refusals: list[SecateurError | None] = []
        for i in range(len(densities)):
            try:
                self.refuse_unsupported(query.select(slice(i, i + 1)))
            except SecateurError as refusal:
                refusals.append(refusal)
            else:
                refusals.append(None)
        return refusals

    def predict(
        self,
        depth: ArrayLike,
        width: ArrayLike,
        density: ArrayLike,
        unpruned_error: ArrayLike,
        *,
        confidence: float = 0.9,
        of: BandTarget = "run",
        unpruned_sd: float | None = None,
    ) -> Estimate | tuple[Estimate, ...]:
        """The error of a network at a density, with its band; a tuple if an argument is an array.

        The band is that of `DensityLaw.predict`. For one more run of a network that was not fitted
        it contains the distance of each fitted network from the law fitted to the others. A network
        outside the fitted depths and widths is an extrapolation: its band is widened by the same
        distance, and more with the distance from the fitted sizes. Raises `InsufficientPointsError`
        for such a network where fewer than three were fitted.
        """
        forecasts = self.forecasts(
            depth,
            width,
            density,
            unpruned_error,
            confidence=confidence,
            of=of,
            unpruned_sd=unpruned_sd,
        )
        estimates = tuple(forecast.error for forecast in forecasts)
        arguments = (depth, width, density, unpruned_error)
        return estimates[0] if all(np.ndim(values) == 0 for values in arguments) else estimates

    def density_for(
        self, error: ArrayLike, depth: ArrayLike, width: ArrayLike, unpruned_error: ArrayLike
    ) -> float | Floats:
        """The smallest density at which a network's error is at most `error`.

        The closed form of `DensityLaw.density_for` at p / (depth^phi width^psi), with its refusals;
        one number, or an array where an argument is one.
        """
        arguments = (error, depth, width, unpruned_error)
        density = self._invert(*(np.atleast_1d(np.asarray(values, float)) for values in arguments))
        return float(density[0]) if all(np.ndim(values) == 0 for values in arguments) else density


def fit_joint_law(  # noqa: PLR0913 - the columns of the data, and options by keyword
    depth: ArrayLike,
    width: ArrayLike,
    density: ArrayLike,
    error: ArrayLike,
    unpruned_error: ArrayLike,
    *,
    classes: int | None = None,
    guessing_error: float | None = None,
    plateau: float | None = None,
    images: ArrayLike | None = None,
    network: Sequence[Hashable] | None = None,
    trial: Sequence[Hashable] | None = None,
    unpruned_sd: float | None = None,
    refits: int | None = None,
    seed: int = 0,
) -> JointLaw:
    """Fit one law to the pruned networks of a family.

    `density` and `error` are (n), the other columns (n) or one number for all points. Points of one
    depth, width and unpruned error, or of one label in `network`, are of one network. The exponents
    phi and psi are fitted where depths and widths differ. `images` is one number or (n); one more
    run is measured on the most. `refits` is the number of bootstrap fits,
    0 for the delta method: whole networks (with their trials) are resampled from five networks on,
    else points and trials. None means 200 from five networks on, else 0. Other options and errors
    are those of `fit_density_law`.

    >>> depth, density = np.repeat([20, 56], 5), np.tile([0.4, 0.2, 0.1, 0.05, 0.02], 2)
    >>> truth = evaluate_pruned_error(depth**0.7 * density, 0.07, 0.6, 0.02, 0.9)
    >>> law = fit_joint_law(depth, 1, density, truth, 0.07, classes=10)
    >>> round(law.phi, 4), law.psi, round(law.density_for(0.14, 56, 1, 0.07), 4)
    (0.7, 0.0, 0.028)
    """
    options = Options(
        classes=classes,
        guessing_error=guessing_error,
        plateau=plateau,
        images=None if images is None else int(np.max(np.asarray(images))),
        unpruned_sd=unpruned_sd,
        refits=refits or 0,
        seed=seed,
    )
    curves = gather_curves(
        density,
        error,
        unpruned_error,
        depth,
        width,
        chance=options.chance,
        images=images,
        network=network,
        trial=trial,
    )
    if refits is None and len(curves.unpruned) >= ENOUGH_NETWORKS:
        options = replace(options, refits=REFITS)
    varies = find_varying(curves)
    return JointLaw(**assemble_fields(curves, varies, options))
