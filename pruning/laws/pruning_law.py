"""What the laws of pruned networks share: they are asked for errors, with bands, and refuse where
they cannot know.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np

from pruning.errors import CurveError, InsufficientPointsError, ParameterError, UnreachableError
from pruning.laws import bands
from pruning.laws.bands import Query
from pruning.laws.curves import RISE, SEED_SD
from pruning.laws.documents import (
    BackTest,
    Fit,
    Folds,
    Forecast,
    NetworkCurve,
    Numbers,
    Point,
    Refits,
    average_held_out,
)
from pruning.laws.forms import Floats, PruningForm, invert_pruned_error
from pruning.schemas.base import Document
from pruning.schemas.report import Estimate

Of = Literal["mean", "run"]


class PruningLaw(Document):
    """A fitted pruning law: numbers alone, so that it is stored as JSON and asked later."""

    form: ClassVar[PruningForm] = PruningForm()
    fit: Fit
    limit: float
    """Chance: no error is above it."""
    centre: tuple[float, float]
    """Depth and width in units of which the law is fitted: p is the density of a network of this
    size.
    """
    networks: tuple[NetworkCurve, ...]
    points: tuple[Point, ...]
    images: int | None
    refits: Refits | None
    folds: Folds | None
    network_folds: Folds | None
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

    @property
    def sigma(self) -> float:
        """Relative standard deviation of a measured error about the curve."""
        return self.fit.sigma

    @property
    def held_out(self) -> float | None:
        """Mean |error(law) / error - 1| at densities that were left out, the sparsest of each
        network aside.
        """
        return average_held_out(self.folds, self.points)

    @property
    def condition(self) -> float | None:
        """Condition number of the free parameters; `null` where none is free."""
        return self.fit.condition

    @property
    def covariance(self) -> tuple[Numbers, ...]:
        """Covariance of the free parameters, in the order of `fit.free`, for given unpruned
        errors.
        """
        return self.fit.covariance

    def _threshold(self, depth: Floats, width: Floats) -> Floats:
        """The density p of the end of the power law, of networks of these sizes."""
        _, log_p, _, phi, psi = self.fit.theta
        return np.asarray(
            np.exp(
                log_p - phi * np.log(depth / self.centre[0]) - psi * np.log(width / self.centre[1])
            )
        )

    def _query(self, density: Floats, depth: Floats, width: Floats, unpruned: Floats) -> Query:
        """The law's own features, and which network each point is of."""
        for name, values, most in (
            ("density", density, 1.0),
            ("depth", depth, np.inf),
            ("width", width, np.inf),
            ("unpruned_error", unpruned, np.inf),
        ):
            wrong = ~(np.isfinite(values) & (values > 0) & (values <= most * (1 + 1e-12)))
            if wrong.any():
                raise ParameterError(
                    f"{name}: {values[wrong][0]:g}; above 0"
                    + (f" and at most {most:g}" * (most < np.inf))
                )
        if (unpruned > self.plateau * (1 + 1e-12)).any():
            raise CurveError(
                f"an unpruned error of {unpruned.max():g} is above the plateau of the law, "
                f"{self.plateau:g}: "
                "it tells nothing of such a network"
            )
        known = np.array([[one.depth, one.width, one.unpruned_error] for one in self.networks])
        same = np.isclose(np.stack([depth, width, unpruned], axis=1)[:, None], known[None]).all(2)
        network = np.where(same.any(1), same.argmax(1), -1)
        features = np.log([density, depth / self.centre[0], width / self.centre[1]])
        return Query(features, np.log(unpruned), network)

    def _forecasts(
        self,
        density: Floats,
        depth: Floats,
        width: Floats,
        unpruned: Floats,
        confidence: float,
        of: Of,
        unpruned_sd: float | None = None,
    ) -> tuple[Forecast, ...]:
        """Errors with bands; `InsufficientPointsError` where the law cannot tell."""
        if not 0 < confidence < 1:
            raise ParameterError(f"confidence: {confidence:g}; between 0 and 1")
        if of not in ("mean", "run"):
            raise ParameterError(
                f"of: {of!r}; 'mean' (the law's curve) or 'run' (one more measured network)"
            )
        query = self._query(density, depth, width, unpruned)
        beyond, outside = self._beyond(query), self._outside(query)
        self._refuse(density, query.features, beyond, outside)
        value = self.form.evaluate(
            np.array(self.fit.theta)[None], query.features, query.log_unpruned
        )[0][0]
        lows, highs, how = self._band(query, value, confidence, of, unpruned_sd, beyond, outside)
        if self.back_test is not None:
            extra = self.back_test.root_mean_square * np.sqrt(beyond / self.back_test.reach)
            lows, highs = bands.add_deviation(
                (lows, highs), extra, len(self.back_test.points), confidence
            )
        if (outside > 0).any():
            extra = np.where(outside > 0, self._between() * (1.0 + outside), 0.0)
            lows, highs = bands.add_deviation(
                (lows, highs), extra, len(self.networks) - 1, confidence
            )
        most = math.log(self.most(of))
        found = []
        for i, centre in enumerate(value):
            error = Estimate(
                value=_error(centre),
                low=_error(centre - lows[i]),
                high=_error(max(centre, min(centre + highs[i], most))),
                n=len(self.points),
            )
            notes = [
                how[i],
                self._caution() if beyond[i] > 0 else "",
                "extrapolated: a network beyond the sizes that were fitted"
                if outside[i] > 0
                else "",
            ]
            found.append(
                Forecast(
                    density=float(density[i]),
                    error=error,
                    extrapolated=bool(beyond[i] + outside[i] > 0),
                    notes=tuple(one for one in notes if one),
                )
            )
        return tuple(found)

    def _band(
        self,
        query: Query,
        value: Floats,
        confidence: float,
        of: Of,
        unpruned_sd: float | None,
        beyond: Floats,
        outside: Floats,
    ) -> tuple[Floats, Floats, list[str]]:
        sd = bands.compute_deviation(self.form, self.fit, self._responses, query, unpruned_sd)
        dof = self.fit.degrees_of_freedom
        mean = (
            bands.build_normal_band(sd, dof, confidence)
            if self.refits is None
            else bands.build_refitted_band(
                self.form,
                self.fit,
                refits=self.refits,
                query=query,
                confidence=confidence,
                unpruned_sd=unpruned_sd,
            )
        )
        if of == "mean":
            return *mean, [""] * len(value)
        noise = self._noise(value)
        low, high = bands.build_normal_band(np.hypot(sd, self.fit.sigma * noise), dof, confidence)
        extrapolated = beyond + outside > 0
        if (
            self.network_folds is not None
        ):  # where no conformal band takes its place; outside the sizes it comes on top
            strange = np.where(query.known | (outside > 0), 0.0, self._between())
            low, high = bands.add_deviation(
                (low, high), strange, len(self.networks) - 1, confidence
            )
        how = np.full(len(value), "too few points for a conformal band: Student's t", object)
        for folds, asked in ((self.folds, query.known), (self.network_folds, ~query.known)):
            band = (
                bands.build_conformal_band(
                    self.form,
                    self.fit,
                    folds=folds,
                    query=query,
                    noise=noise,
                    confidence=confidence,
                )
                if folds is not None
                else None
            )
            if band is not None:  # of networks with measured unpruned errors
                band = bands.add_deviation(
                    band,
                    bands.inherit_deviation(self.form, self.fit, query, unpruned_sd),
                    dof,
                    confidence,
                )
                use = asked & ~extrapolated
                low, high, how[use] = np.where(use, band[0], low), np.where(use, band[1], high), ""
        how[extrapolated] = ""
        return np.maximum(low, mean[0]), np.maximum(high, mean[1]), list(how)

    def most(self, of: Of) -> float:
        """The largest error that a band reaches: the plateau, or three deviations above chance for
        one run on the images.
        """
        if of == "mean":
            return self.plateau
        sampling = (
            1.0
            if self.images is None
            else 3 * math.sqrt(self.limit * (1 - self.limit) / self.images)
        )
        return min(1.0, self.limit + sampling)

    def _densities(self, error: Floats, depth: Floats, width: Floats, unpruned: Floats) -> Floats:
        """The inverse at networks that broadcast with the errors, within (0, 1], refused where the
        law cannot know.
        """
        error, depth, width, unpruned = np.broadcast_arrays(error, depth, width, unpruned)
        if not (np.isfinite(error) & (error > 0) & (error <= 1)).all():
            raise ParameterError("error: every one above 0 and at most 1")
        query = self._query(np.ones(len(error)), depth, width, unpruned)
        low = np.flatnonzero(error < unpruned)
        if len(low):
            raise UnreachableError(
                f"error {error[low[0]]:g} is below the unpruned error: the closest is "
                f"{unpruned[low[0]]:g}, of the network without pruning (density 1)"
            )
        found = np.minimum(
            1.0,
            invert_pruned_error(
                error, unpruned, self.gamma, self._threshold(depth, width), self.plateau
            ),
        )
        inner = found > 0
        query = Query(
            query.features + np.log(np.where(inner, found, 1.0)) * np.array([[1.0], [0.0], [0.0]]),
            query.log_unpruned,
            query.network,
        )
        self._refuse(found, query.features, self._beyond(query), self._outside(query))
        return found

    @property
    def _responses(self) -> Floats:
        return np.array([one.response for one in self.networks], float).reshape(
            len(self.networks), -1
        )

    def _noise(self, log_error: Floats) -> Floats:
        """Standard deviation of one run in units of sigma."""
        if self.images is None:
            return np.ones(len(log_error))
        error = np.exp(log_error)
        return np.asarray(np.sqrt(1 + (1 - error).clip(0) / (self.images * error) / SEED_SD**2))

    def _invariant(self, features: Floats) -> Floats:
        return np.asarray(
            features[0] + self.fit.theta[3] * features[1] + self.fit.theta[4] * features[2]
        )

    @property
    def _sparsest(self) -> float:
        """ln of the smallest invariant that was measured."""
        return float(
            min(
                np.log(one.sparsest)
                + self.fit.theta[3] * np.log(one.depth / self.centre[0])
                + self.fit.theta[4] * np.log(one.width / self.centre[1])
                for one in self.networks
            )
        )

    def _beyond(self, query: Query) -> Floats:
        """How far below the sparsest measured point, in ln of the invariant; 0 within, (n,)."""
        return np.maximum(0.0, self._sparsest - self._invariant(query.features) - 1e-9)

    def _outside(self, query: Query) -> Floats:
        """How far outside the fitted depths and widths, in ln; 0 within, (n,)."""
        found = np.zeros(len(query.network))
        for row, centre, sizes in (
            (1, self.centre[0], [one.depth for one in self.networks]),
            (2, self.centre[1], [one.width for one in self.networks]),
        ):
            logs = np.log(np.array(sizes) / centre)
            found += np.maximum(0.0, logs.min() - query.features[row] - 1e-9)
            found += np.maximum(0.0, query.features[row] - logs.max() - 1e-9)
        return found

    def _between(self) -> float:
        """How far a network is from the law fitted to the others: root mean square of ln error."""
        assert self.network_folds is not None
        return float(np.sqrt(np.mean(np.square(self.network_folds.missed))))

    def _caution(self) -> str:
        """What extrapolation was worth in the back-test."""
        assert self.back_test is not None
        side = "low" if self.back_test.bias < 0 else "high"
        return (
            f"extrapolated: fitted on its denser points, the law missed the sparser ones by "
            f"{self.back_test.mean_absolute:.0%} and was {abs(self.back_test.bias):.0%} too {side}"
        )

    def _refuse(self, density: Floats, features: Floats, beyond: Floats, outside: Floats) -> None:
        if (outside > 0).any() and len(self.networks) < 3:
            raise InsufficientPointsError(
                f"fitted networks: {len(self.networks)}, too few to tell of sizes outside theirs; "
                f"{3 - len(self.networks)} more would do"
            )
        for row, name, sizes in (
            (1, "depth", {one.depth for one in self.networks}),
            (2, "width", {one.width for one in self.networks}),
        ):
            if len(sizes) == 1 and (np.abs(features[row]) > 1e-6).any():
                raise InsufficientPointsError(
                    f"all fitted networks have {name} {min(sizes):g}, which tells nothing of "
                    f"another; 1 more, of another {name}, would do"
                )
        if not (beyond > 0).any():
            return
        at = float(density[np.argmax(beyond)])
        highest = max(one.error / self.networks[one.network].unpruned_error for one in self.points)
        sparsest = min(one.sparsest for one in self.networks)
        if highest < RISE:
            raise InsufficientPointsError(
                f"density {at:.3g} is beyond what was measured, and no measured error reaches "
                f"{RISE:g} times the unpruned "
                f"error (the highest is {highest:.2f} times): {self._needed(sparsest)}"
            )
        if self.back_test is None:
            raise InsufficientPointsError(
                f"density {at:.3g} is beyond what was measured; {self.warnings[-1]}"
            )

    def _needed(self, sparsest: float) -> str:
        """How many rounds of 20 % more would see the rise."""
        best = min(self.networks, key=lambda one: one.sparsest)
        wanted = float(
            invert_pruned_error(
                RISE * best.unpruned_error,
                best.unpruned_error,
                self.gamma,
                self._threshold(np.array(best.depth), np.array(best.width)),
                self.plateau,
            )
        )
        if not 0 < wanted < sparsest:
            return "prune further until it does"
        rounds = math.ceil(math.log(wanted / sparsest) / math.log(0.8))
        return (
            f"about {rounds} more points, each with 0.8 of the density before (to "
            f"{wanted:.2g}), would do"
        )


def _error(log_error: float) -> float:
    return float(min(1.0, math.exp(log_error)))
