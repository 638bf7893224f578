"""The base of the laws of pruned networks: they predict errors with bands, and refuse where the
points do not support an answer.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from pruning.errors import CurveError, ParameterError, UnreachableError
from pruning.laws import bands
from pruning.laws.bands import BandTarget, Query
from pruning.laws.curves import SEED_SD
from pruning.laws.documents import (
    Folds,
    Forecast,
    Numbers,
    Refits,
    average_held_out,
)
from pruning.laws.forms import Floats, PruningForm, invert_pruned_error
from pruning.laws.reach import MeasuredLaw
from pruning.laws.seeds import SeedEffect
from pruning.schemas.report import Estimate


class PruningLaw(MeasuredLaw):
    """A fitted pruning law: numbers only, so that it is stored as JSON and asked later."""

    form: ClassVar[PruningForm] = PruningForm()
    limit: float
    """Chance: no error is above it."""
    images: int | None
    refits: Refits | None
    folds: Folds | None
    network_folds: Folds | None
    seed_effect: SeedEffect = SeedEffect()
    """The effect of another seed on a whole curve; laws of earlier versions take the paper's."""

    def describe_plateau(self) -> str:
        """The note that the plateau is chance and was not measured.

        It is empty where a lower one was found, and where a warning says it.
        """
        is_told = any("taken to be chance" in warning for warning in self.warnings)
        if is_told or self.plateau < self.limit * (1 - 1e-6):
            return ""
        return (
            f"The plateau is that of chance, {100 * self.limit:.1f} %: the points show no lower "
            "one."
        )

    @property
    def sigma(self) -> float:
        """Relative standard deviation of a measured error about the curve."""
        return self.fit.sigma

    @property
    def held_out(self) -> float | None:
        """Mean |error(law) / error - 1| at densities that were left out, without the sparsest."""
        return average_held_out(self.folds, self.points)

    @property
    def condition(self) -> float | None:
        """Condition number of the free parameters; `null` where none is free."""
        return self.fit.condition

    @property
    def covariance(self) -> tuple[Numbers, ...]:
        """Covariance of the free parameters ordered as `fit.free`, at fixed unpruned errors."""
        return self.fit.covariance

    def _build_query(
        self, density: Floats, depth: Floats, width: Floats, unpruned: Floats
    ) -> Query:
        """The features of the points, (n,) each, and the fitted network that each belongs to."""
        bands.check_values("density", density, 1.0)
        bands.check_values("depth", depth)
        bands.check_values("width", width)
        bands.check_values("unpruned_error", unpruned)
        if (unpruned > self.plateau * (1 + 1e-12)).any():
            raise CurveError(
                f"an unpruned error of {unpruned.max():g} is above the plateau of the law, "
                f"{self.plateau:g}: the law is not of such a network"
            )
        fitted = np.array(
            [[network.depth, network.width, network.unpruned_error] for network in self.networks]
        )
        points = np.stack([depth, width, unpruned], axis=1)
        same = np.isclose(points[:, None], fitted[None]).all(2)
        network = np.where(same.any(1), same.argmax(1), -1)
        features = np.log([density, depth / self.centre[0], width / self.centre[1]])
        return Query(features, np.log(unpruned), network)

    def _forecast_points(  # noqa: PLR0913 - columns and options, by keyword
        self,
        *,
        density: Floats,
        depth: Floats,
        width: Floats,
        unpruned: Floats,
        confidence: float,
        of: BandTarget,
        unpruned_sd: float | None = None,
        seed_sd: float | None = None,
    ) -> tuple[Forecast, ...]:
        """Errors with bands; `InsufficientPointsError` where the points do not support them."""
        bands.check_band(confidence, of)
        query = self._build_query(density, depth, width, unpruned)
        self.refuse_unsupported(query)
        beyond, outside = self.measure_beyond(query), self.measure_outside(query)
        theta = np.array(self.fit.theta)[None]
        value = self.form.evaluate(theta, query.features, query.log_unpruned)[0][0]
        band = self._build_curve_band(query, confidence, unpruned_sd)
        remarks = [""] * len(value)
        if of == "run":
            run_band, remarks = self._build_run_band(
                query,
                value,
                confidence=confidence,
                unpruned_sd=unpruned_sd,
                beyond=beyond,
                outside=outside,
            )
            band = np.maximum(run_band[0], band[0]), np.maximum(run_band[1], band[1])
            moved = self.seed_effect.compute_half_width(
                self._spread_seeds(query, seed_sd), confidence
            )
            band = np.hypot(band[0], moved), np.hypot(band[1], moved)
        below, above = self._widen_band(band, beyond, outside, confidence)
        log_limit = math.log(self.limit_band(of))
        forecasts = []
        for i, centre in enumerate(value):
            error = Estimate(
                value=_to_error(centre),
                low=_to_error(centre - below[i]),
                high=_to_error(max(centre, min(centre + above[i], log_limit))),
                n=len(self.points),
                unit="fraction",
            )
            notes = [remarks[i]] if remarks[i] else []
            if beyond[i] > 0:
                notes.append(self._caution_extrapolation())
            if outside[i] > 0:
                notes.append("extrapolated: a network beyond the sizes that were fitted")
            forecast = Forecast(
                density=float(density[i]),
                error=error,
                extrapolated=bool(beyond[i] + outside[i] > 0),
                notes=tuple(notes),
            )
            forecasts.append(forecast)
        return tuple(forecasts)

    def _widen_band(
        self, band: bands.Band, beyond: Floats, outside: Floats, confidence: float
    ) -> bands.Band:
        """The band with the deviations of extrapolations: to sparser points and to other sizes."""
        if self.back_test is not None:
            extra = self.back_test.root_mean_square * np.sqrt(beyond / self.back_test.reach)
            band = bands.add_deviation(band, extra, len(self.back_test.points), confidence)
        if (outside > 0).any():
            extra = np.where(outside > 0, self._measure_between() * (1.0 + outside), 0.0)
            band = bands.add_deviation(band, extra, len(self.networks) - 1, confidence)
        return band

    def _build_curve_band(
        self, query: Query, confidence: float, unpruned_sd: float | None
    ) -> bands.Band:
        """The band of the curve: from the refits where there are some, else by the delta method."""
        if self.refits is not None:
            return bands.build_refitted_band(
                self.form,
                self.fit,
                refits=self.refits,
                query=query,
                confidence=confidence,
                unpruned_sd=unpruned_sd,
            )
        sd = bands.compute_deviation(self.form, self.fit, self._responses, query, unpruned_sd)
        return bands.build_normal_band(sd, self.fit.degrees_of_freedom, confidence)

    def _build_run_band(
        self,
        query: Query,
        value: Floats,
        *,
        confidence: float,
        unpruned_sd: float | None,
        beyond: Floats,
        outside: Floats,
    ) -> tuple[bands.Band, list[str]]:
        """The band of one more run, and a remark for each point: conformal within the fitted
        points where there are enough, else by Student's t.
        """
        sd = bands.compute_deviation(self.form, self.fit, self._responses, query, unpruned_sd)
        dof = self.fit.degrees_of_freedom
        noise = self._scale_noise(value)
        spread = np.hypot(sd, self.fit.sigma * noise)
        below, above = bands.build_normal_band(spread, dof, confidence)
        if self.network_folds is not None:
            # A network that was not fitted lies off the law as a whole. The conformal band below
            # holds that already; outside the fitted sizes the caller adds it.
            between = np.where(query.known | (outside > 0), 0.0, self._measure_between())
            below, above = bands.add_deviation(
                (below, above), between, len(self.networks) - 1, confidence
            )
        remarks = np.full(len(value), "too few points for a conformal band: Student's t", object)
        within = beyond + outside <= 0
        for folds, in_folds in ((self.folds, query.known), (self.network_folds, ~query.known)):
            if folds is None:
                continue
            band = bands.build_conformal_band(
                self.form, self.fit, folds=folds, query=query, noise=noise, confidence=confidence
            )
            if band is None:
                continue
            # The folds are of networks with measured unpruned errors; a guessed one adds its own.
            inherited = bands.inherit_deviation(self.form, self.fit, query, unpruned_sd)
            band = bands.add_deviation(band, inherited, dof, confidence)
            use = in_folds & within
            below = np.where(use, band[0], below)
            above = np.where(use, band[1], above)
            remarks[use] = ""
        remarks[~within] = ""
        return (below, above), list(remarks)

    def limit_band(self, of: BandTarget) -> float:
        """The largest error that a band reaches: the plateau, or for one run three standard
        deviations of its images above chance.
        """
        if of == "curve":
            return self.plateau
        if self.images is None:
            return 1.0
        sampling = 3 * math.sqrt(self.limit * (1 - self.limit) / self.images)
        return min(1.0, self.limit + sampling)

    def _invert(self, error: Floats, depth: Floats, width: Floats, unpruned: Floats) -> Floats:
        """The smallest densities, within (0, 1], of networks that broadcast with the errors.

        Raises `UnreachableError` below an unpruned error, `InsufficientPointsError` where the
        points do not support an answer.
        """
        error, depth, width, unpruned = np.broadcast_arrays(error, depth, width, unpruned)
        if not (np.isfinite(error) & (error > 0) & (error <= 1)).all():
            raise ParameterError("error: every one above 0 and at most 1")
        query = self._build_query(np.ones(len(error)), depth, width, unpruned)
        low = np.flatnonzero(error < unpruned)
        if len(low):
            raise UnreachableError(
                f"error {error[low[0]]:g} is below the unpruned error: the closest is "
                f"{unpruned[low[0]]:g}, of the network without pruning (density 1)"
            )
        threshold = self.locate_threshold(depth, width)
        inverse = invert_pruned_error(error, unpruned, self.gamma, threshold, self.plateau)
        density = np.minimum(1.0, inverse)
        # At the plateau and above the density is 0, which has no logarithm and is never refused.
        log_density = np.log(np.where(density > 0, density, 1.0))
        features = query.features + log_density * np.array([[1.0], [0.0], [0.0]])
        self.refuse_unsupported(Query(features, query.log_unpruned, query.network))
        return density

    @property
    def _responses(self) -> Floats:
        """The responses of the networks, (K, Q)."""
        responses = np.array([network.response for network in self.networks], float)
        return responses.reshape(len(self.networks), -1)

    def _spread_seeds(self, query: Query, seed_sd: float | None) -> Floats:
        """Relative standard deviation of one more curve from the mean of the trials of its network,
        (n,): s sqrt(1 + 1 / T), with one trial where the network was not fitted; or as given.
        """
        if seed_sd is not None:
            return np.full(len(query.network), seed_sd)
        trials = np.append([network.trials for network in self.networks], 1)[query.network]
        return np.asarray(self.seed_effect.sd * np.sqrt(1.0 + 1.0 / trials))

    def _scale_noise(self, log_error: Floats) -> Floats:
        """Standard deviation of one run in units of sigma, (n,): larger on few images."""
        if self.images is None:
            return np.ones(len(log_error))
        error = np.exp(log_error)
        return np.asarray(np.sqrt(1 + (1 - error).clip(0) / (self.images * error) / SEED_SD**2))

    def _measure_between(self) -> float:
        """The distance of a network from the law fitted to the others: root mean square of ln
        error.
        """
        assert self.network_folds is not None
        return float(np.sqrt(np.mean(np.square(self.network_folds.missed))))

    def _caution_extrapolation(self) -> str:
        """A note on the errors of the back-test, which was an extrapolation."""
        assert self.back_test is not None
        side = "low" if self.back_test.bias < 0 else "high"
        return (
            "extrapolated: fitted on its denser points, the law missed the sparser ones by "
            f"{100 * self.back_test.mean_absolute:.0f} % and was "
            f"{100 * abs(self.back_test.bias):.0f} % too {side}"
        )


def _to_error(log_error: float) -> float:
    return float(min(1.0, math.exp(log_error)))
