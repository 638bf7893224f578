"""The distance of a question to a pruning law from what was measured, and the refusals that
follow.
"""

from __future__ import annotations

import math

import numpy as np

from pruning.errors import InsufficientPointsError
from pruning.laws.bands import Query
from pruning.laws.curves import RISE
from pruning.laws.documents import BackTest, Fit, NetworkCurve, Point
from pruning.laws.forms import Flags, Floats, invert_pruned_error
from pruning.schemas.base import Document

ROUND = 0.8
"""The density of a suggested further round, relative to the round before."""
SIZES = ("phi", "psi")
"""The exponents by which networks of other sizes count."""


class MeasuredLaw(Document):
    """The constants of a pruning law and the measurements that support it."""

    fit: Fit
    centre: tuple[float, float]
    """The units of depth and width in the fit: `theta` holds the p of a network of this size."""
    networks: tuple[NetworkCurve, ...]
    points: tuple[Point, ...]
    back_test: BackTest | None
    warnings: tuple[str, ...]

    @property
    def gamma(self) -> float:
        """The slope of the power law: error ~ m^-gamma between its ends."""
        return math.exp(self.fit.theta[0])

    @property
    def plateau(self) -> float:
        """The error of a network with nothing left."""
        return math.exp(self.fit.theta[2])

    def locate_threshold(self, depth: Floats, width: Floats) -> Floats:
        """The density p at the end of the power law, for networks of these sizes."""
        _, log_p, _, phi, psi = self.fit.theta
        log_depth = np.log(depth / self.centre[0])
        log_width = np.log(width / self.centre[1])
        return np.asarray(np.exp(log_p - phi * log_depth - psi * log_width))

    def measure_beyond(self, query: Query) -> Floats:
        """The distance below what was measured, in ln, (n,): the larger of the distances below the
        smallest invariant and below the smallest density.
        """
        _, _, _, phi, psi = self.fit.theta
        log_density, log_depth, log_width = query.features
        log_invariant = log_density + phi * log_depth + psi * log_width
        least_density = min(math.log(network.sparsest) for network in self.networks)
        least_invariant = min(
            math.log(network.sparsest)
            + phi * math.log(network.depth / self.centre[0])
            + psi * math.log(network.width / self.centre[1])
            for network in self.networks
        )
        distance = np.maximum(least_invariant - log_invariant, least_density - log_density)
        return np.asarray(np.maximum(0.0, distance - 1e-9))

    def measure_outside(self, query: Query) -> Floats:
        """The distance outside the fitted depths and widths, in ln; 0 within, (n,)."""
        distance = np.zeros(len(query.network))
        _, log_depth, log_width = query.features
        for values, centre, sizes in (
            (log_depth, self.centre[0], [network.depth for network in self.networks]),
            (log_width, self.centre[1], [network.width for network in self.networks]),
        ):
            fitted = np.log(np.array(sizes) / centre)
            distance += np.maximum(0.0, fitted.min() - values - 1e-9)
            distance += np.maximum(0.0, values - fitted.max() - 1e-9)
        return distance

    def _list_resting(self) -> list[str]:
        """The exponents that ended at a limit of the fit, or have no say in it.

        phi and psi are fitted only where depths and widths differ.
        """
        fitted = ["log_gamma"]
        if len({network.depth for network in self.networks}) > 1:
            fitted.append("phi")
        if len({network.width for network in self.networks}) > 1:
            fitted.append("psi")
        free = {self.fit.names[i] for i in self.fit.free}
        return [name for name in fitted if name not in free]

    def refuse_unsupported(self, query: Query) -> None:
        """Raise `InsufficientPointsError` where a point is too far from the fitted ones."""
        beyond, outside = self.measure_beyond(query), self.measure_outside(query)
        density = np.exp(query.features[0])
        if (outside > 0).any() and len(self.networks) < 3:
            raise InsufficientPointsError(
                f"fitted networks: {len(self.networks)}, too few to predict sizes outside theirs; "
                f"{3 - len(self.networks)} more would do"
            )
        _, log_depth, log_width = query.features
        for name, values, sizes in (
            ("depth", log_depth, {network.depth for network in self.networks}),
            ("width", log_width, {network.width for network in self.networks}),
        ):
            if len(sizes) == 1 and (np.abs(values) > 1e-6).any():
                raise InsufficientPointsError(
                    f"all fitted networks have {name} {min(sizes):g}, so the law does not predict "
                    f"another; 1 more, of another {name}, would do"
                )
        resting = self._list_resting()
        left = self._mask_left(query, resting, beyond + outside > 0)
        if left.any():
            names = ", ".join(name.removeprefix("log_") for name in resting)
            raise InsufficientPointsError(
                f"density {float(density[np.argmax(left)]):.3g} leaves what was measured, and "
                f"{names} ended at a limit of the fit: the points do not determine the law there; "
                "points at more densities, or of more networks, would do"
            )
        if not (beyond > 0).any():
            return
        furthest = float(density[np.argmax(beyond)])
        rises = [point.error / self.networks[point.network].unpruned_error for point in self.points]
        if max(rises) < RISE:
            raise InsufficientPointsError(
                f"density {furthest:.3g} is beyond what was measured, and no measured error "
                f"reaches {RISE:g} times the unpruned error (the highest is {max(rises):.2f} "
                f"times): {self._describe_points_needed()}"
            )
        if self.back_test is None:
            raise InsufficientPointsError(
                f"density {furthest:.3g} is beyond what was measured; {self.warnings[-1]}"
            )

    def _mask_left(self, query: Query, resting: list[str], extrapolated: Flags) -> Flags:
        """The points at which a law with `resting` exponents leaves what was measured, (n,).

        With an exponent of depth or width at a limit, no network tells of another: one that was not
        fitted, and a density below the network's own sparsest one, leave it, too.
        """
        if not resting:
            return np.zeros(len(query.network), bool)
        if not set(resting) & set(SIZES):
            return extrapolated
        own = np.log([network.sparsest for network in self.networks])[np.maximum(query.network, 0)]
        return np.asarray(extrapolated | ~query.known | (query.features[0] < own - 1e-9))

    def _describe_points_needed(self) -> str:
        """The further points, each at ROUND of the density before, that would reach the rise.

        The clause ends a refusal.
        """
        network = min(self.networks, key=lambda network: network.sparsest)
        needed = float(
            invert_pruned_error(
                error=RISE * network.unpruned_error,
                unpruned=network.unpruned_error,
                gamma=self.gamma,
                p=self.locate_threshold(np.array(network.depth), np.array(network.width)),
                plateau=self.plateau,
            )
        )
        if not 0 < needed < network.sparsest:
            return "prune further, until one does"
        rounds = math.ceil(math.log(needed / network.sparsest) / math.log(ROUND))
        return (
            f"about {rounds} more points, each with {ROUND:g} of the density before (to "
            f"{needed:.2g}), would do"
        )
