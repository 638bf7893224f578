"""The law of a family: depth and width enter by the invariant depth^phi width^psi density alone."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from pruning.errors import SecateurError
from pruning.laws.assembly import Options, assemble_fields, check_independent
from pruning.laws.curves import gather_curves
from pruning.laws.documents import Forecast
from pruning.laws.fitting import FEW_NETWORKS
from pruning.laws.forms import Floats, evaluate_pruned_error
from pruning.laws.pruning_law import Of, PruningLaw
from pruning.schemas.report import Estimate

REFITS = 200


class JointLaw(PruningLaw):
    """error = e0 [(m^2 + p^2 r^2) / (m^2 + p^2)]^(gamma/2), m = depth^phi width^psi density, e0 the
    unpruned error.

    Five constants for all networks; training images and the like enter only by e0, which is each
    network's own.
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
        return float(
            np.exp(self.fit.theta[1]) * self.centre[0] ** self.phi * self.centre[1] ** self.psi
        )

    @property
    def fit_range(self) -> dict[str, tuple[float, float]]:
        """The smallest and the largest of what was measured."""
        columns = {
            "density": [end for one in self.networks for end in (one.sparsest, one.densest)],
            "depth": [one.depth for one in self.networks],
            "width": [one.width for one in self.networks],
            "unpruned_error": [one.unpruned_error for one in self.networks],
        }
        return {name: (min(values), max(values)) for name, values in columns.items()}

    def transitions(self, depth: float, width: float, unpruned_error: float) -> tuple[float, float]:
        """The densities of one network between which the power law holds; the first above 1 where
        pruning costs at once.
        """
        p = float(self._threshold(np.array(depth), np.array(width)))
        return p * float((self.plateau / unpruned_error) ** (1 / self.gamma)), p

    def invariant(self, depth: ArrayLike, width: ArrayLike, density: ArrayLike) -> Floats:
        """m = depth^phi width^psi density: networks of equal m and equal unpruned error have equal
        error.
        """
        depth, width, density = (np.asarray(one, float) for one in (depth, width, density))
        return np.asarray(depth**self.phi * width**self.psi * density)

    def curve(
        self, depth: ArrayLike, width: ArrayLike, density: ArrayLike, unpruned_error: ArrayLike
    ) -> Floats:
        """The law anywhere, without band and without refusal: for plots."""
        return evaluate_pruned_error(
            self.invariant(depth, width, density), unpruned_error, self.gamma, self.p, self.plateau
        )

    def forecasts(
        self,
        depth: ArrayLike,
        width: ArrayLike,
        density: ArrayLike,
        unpruned_error: ArrayLike,
        *,
        confidence: float = 0.9,
        of: Of = "mean",
        unpruned_sd: float | None = None,
    ) -> tuple[Forecast, ...]:
        """Errors with bands, whether they are extrapolations, and what to know. The arguments
        broadcast.

        `unpruned_sd` is the relative standard deviation of an unpruned error that was not measured
        in the fit: 0 for an exact one, that of the dense law for a predicted one (None: as in the
        fit).
        """
        density, depth, width, unpruned = np.broadcast_arrays(
            *(
                np.atleast_1d(np.asarray(one, float))
                for one in (density, depth, width, unpruned_error)
            )
        )
        return self._forecasts(density, depth, width, unpruned, confidence, of, unpruned_sd)

    def refusals(
        self, depth: float, width: float, densities: Sequence[float], unpruned_error: float
    ) -> list[SecateurError | None]:
        """Why `forecasts` would refuse a network at each density; `None` where it would not."""
        rows = np.ones(len(densities))
        try:
            query = self._query(
                np.array(densities), depth * rows, width * rows, unpruned_error * rows
            )
        except SecateurError as refusal:
            return [refusal] * len(densities)
        beyond, outside = self._beyond(query), self._outside(query)
        found: list[SecateurError | None] = []
        for i in range(len(densities)):
            one = slice(i, i + 1)
            try:
                self._refuse(
                    rows[one] * densities[i], query.features[:, one], beyond[one], outside[one]
                )
                found.append(None)
            except SecateurError as refusal:
                found.append(refusal)
        return found

    def predict(
        self,
        depth: ArrayLike,
        width: ArrayLike,
        density: ArrayLike,
        unpruned_error: ArrayLike,
        *,
        confidence: float = 0.9,
        of: Of = "mean",
        unpruned_sd: float | None = None,
    ) -> Estimate | tuple[Estimate, ...]:
        """The error of a network at a density (one estimate, or a tuple where an argument is an
        array), with its band.

        As `DensityLaw.predict`. The band of one more run of a network that was not fitted holds how
        far each fitted network lies from the law fitted to the others. A network outside the fitted
        depths and widths is an extrapolation, widened by the same, the further the more;
        `InsufficientPointsError` with fewer than three networks.
        """
        found = tuple(
            one.error
            for one in self.forecasts(
                depth,
                width,
                density,
                unpruned_error,
                confidence=confidence,
                of=of,
                unpruned_sd=unpruned_sd,
            )
        )
        scalar = all(np.ndim(one) == 0 for one in (depth, width, density, unpruned_error))
        return found[0] if scalar else found

    def density_for(
        self, error: ArrayLike, depth: ArrayLike, width: ArrayLike, unpruned_error: ArrayLike
    ) -> float | Floats:
        """The smallest density at which a network's error is at most so much; the closed form at p
        / (depth^phi width^psi).

        As `DensityLaw.density_for`; one number, or an array where an argument is one.
        """
        given = (error, depth, width, unpruned_error)
        found = self._densities(*(np.atleast_1d(np.asarray(one, float)) for one in given))
        return float(found[0]) if all(np.ndim(one) == 0 for one in given) else found


def fit_joint_law(
    depth: ArrayLike,
    width: ArrayLike,
    density: ArrayLike,
    error: ArrayLike,
    unpruned_error: ArrayLike,
    *,
    classes: int | None = None,
    plateau: float | None = None,
    images: int | None = None,
    network: Sequence[Hashable] | None = None,
    trial: Sequence[Hashable] | None = None,
    unpruned_sd: float | None = None,
    refits: int | None = None,
    seed: int = 0,
) -> JointLaw:
    """Fit one law to the pruned networks of a family; `density` and `error` (n), the rest (n) or
    one for all.

    A network is what has one depth, width and unpruned error, or one label in `network`. The
    exponents phi and psi are fitted where depths and widths differ. Other options and errors as in
    `fit_density_law`; `refits` resample whole networks (with their trials) where there are five,
    else points and trials; None for 200 of the former, and else the delta method.

    >>> depth, density = np.repeat([20, 56], 5), np.tile([0.4, 0.2, 0.1, 0.05, 0.02], 2)
    >>> truth = evaluate_pruned_error(depth**0.7 * density, 0.07, 0.6, 0.02, 0.9)
    >>> law = fit_joint_law(depth, 1, density, truth, 0.07, classes=10)
    >>> round(law.phi, 4), law.psi, round(law.density_for(0.14, 56, 1, 0.07), 4)
    (0.7, 0.0, 0.028)
    """
    options = Options(
        classes=classes,
        plateau=plateau,
        images=images,
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
    if refits is None and len(curves.unpruned) >= FEW_NETWORKS:
        options = replace(options, refits=REFITS)
    return JointLaw(**assemble_fields(curves, check_independent(curves), options))
