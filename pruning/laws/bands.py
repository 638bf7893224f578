"""Bands of a fitted law: of its curve by the delta method or by refits, of one more run by
cross-conformal prediction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtri, stdtrit

from pruning.errors import ParameterError
from pruning.laws.documents import Fit, Folds, Refits
from pruning.laws.forms import Flags, Floats, Form, Indices


@dataclass(frozen=True)
class Query:
    """The points at which a law is asked: features (F, n), ln unpruned error (n,), and the index of
    the fitted network, -1 for none, (n,).
    """

    features: Floats
    log_unpruned: Floats
    network: Indices

    @property
    def known(self) -> Flags:
        """Whether the network was fitted, (n,)."""
        return np.asarray(self.network >= 0)

    def select(self, points: slice) -> Query:
        """Some of the points."""
        return Query(self.features[:, points], self.log_unpruned[points], self.network[points])


BandTarget = Literal["run", "curve"]
"""A band of one more run, or of the law's curve, the mean of many runs."""
Band = tuple[Floats, Floats]
"""The distances of the limits below and above ln error, (n,) each and not negative."""


def check_band(confidence: float, of: str) -> None:
    """Raise `ParameterError` for a confidence or a kind of band that does not exist."""
    if not 0 < confidence < 1:
        raise ParameterError(f"confidence: {confidence:g}; between 0 and 1")
    if of not in ("run", "curve"):
        raise ParameterError(
            f"of: {of!r}; 'run' (one more measured network) or 'curve' (the law's mean)"
        )


def check_values(name: str, values: Floats, most: float = math.inf) -> None:
    """Raise `ParameterError` for values that are not finite, above 0 and at most `most`."""
    wrong = ~(np.isfinite(values) & (values > 0) & (values <= most * (1 + 1e-12)))
    if wrong.any():
        limit = f" and at most {most:g}" if most < math.inf else ""
        raise ParameterError(f"{name}: {values[wrong][0]:g}; above 0{limit}")


def _evaluate_fit(form: Form, fit: Fit, query: Query) -> tuple[Floats, Floats]:
    """ln error(law) at the query, (n,), and its gradient, (P + 1, n)."""
    theta = np.array(fit.theta)[None]
    value, gradient = form.evaluate(theta, query.features, query.log_unpruned)
    return value[0], gradient[0]


def compute_deviation(
    form: Form, fit: Fit, responses: Floats, query: Query, unpruned_sd: float | None = None
) -> Floats:
    """Standard deviation of ln error(law) by the delta method, (n,).

    Its square is g' C g + sum_k s_k^2 (g' R_k)^2 + s^2 (2 h g' R(x) + h^2). g is the gradient by
    the free parameters and C their covariance, h the gradient by ln unpruned. s_k is the standard
    deviation of the ln unpruned error of network k, and R_k, a row of `responses` (K, Q), the
    derivative of the parameters by it; s and R(x) are those of the network at the point.
    `unpruned_sd` is the s of a network that was not fitted, whose R is 0.
    """
    _, gradient = _evaluate_fit(form, fit, query)
    g, h = gradient[list(fit.free)], gradient[-1]
    s = compute_unpruned_deviations(fit, query, unpruned_sd)
    variance = np.zeros(len(h))
    if fit.free:
        pulls = responses @ g  # g' R_k, (K, n)
        network_sds = np.array(fit.unpruned_sds)
        if not fit.unpruned_sds:  # a law of an earlier version
            network_sds = np.full(len(responses), fit.unpruned_sd)
        by_parameters = np.einsum("qn,qr,rn->n", g, np.array(fit.covariance), g)
        variance = by_parameters + network_sds**2 @ pulls**2
        # A network's own unpruned error moves the parameters and its curve together. The index of a
        # network that was not fitted is -1; it takes column 0 here and is masked below.
        own_pull = np.take_along_axis(pulls, np.maximum(query.network, 0)[None], axis=0)[0]
        variance += np.where(query.known, 2 * s**2 * h * own_pull, 0.0)
    return np.asarray(np.sqrt(np.maximum(0.0, variance + h**2 * s**2)))


def compute_unpruned_deviations(fit: Fit, query: Query, fresh: float | None) -> Floats:
    """Relative standard deviation of the unpruned error at every point of the query, (n,).

    `fresh` is that of a network that was not fitted.
    """
    other = fit.unpruned_sd if fresh is None else fresh
    if not fit.unpruned_sds:  # a law of an earlier version
        return np.where(query.known, fit.unpruned_sd, other)
    # Index -1, a network that was not fitted, is the appended last one.
    return np.append(fit.unpruned_sds, other)[query.network]


def build_normal_band(sd: Floats, dof: int, confidence: float) -> Band:
    """A band symmetric in ln error: Student's t times the standard deviation."""
    width = float(stdtrit(dof, (1 + confidence) / 2)) * sd
    return width, width


def build_refitted_band(
    form: Form,
    fit: Fit,
    *,
    refits: Refits,
    query: Query,
    confidence: float,
    unpruned_sd: float | None = None,
) -> Band:
    """Percentiles of ln error over the refits about the fit, widened for few clusters and few
    degrees of freedom.

    Where the refits did not perturb the unpruned error at the query, its own part of the variance
    is added.
    """
    theta = np.array(refits.theta)
    n = len(query.network)
    log_unpruned = np.broadcast_to(query.log_unpruned, (len(theta), n))
    perturbed = np.zeros(n, bool)
    if refits.shift:
        perturbed = query.known
        shifts = np.array(refits.shift)[:, np.maximum(query.network, 0)]
        log_unpruned = log_unpruned + np.where(perturbed, shifts, 0.0)
    values, _ = form.evaluate(theta, query.features, log_unpruned)
    centre, gradient = _evaluate_fit(form, fit, query)
    tail = (1 - confidence) / 2
    low, high = np.quantile(values - centre, [tail, 1 - tail], axis=0)
    normal = ndtri(1 - tail)
    ratio = float(stdtrit(refits.degrees_of_freedom, 1 - tail) / normal) * refits.widen
    unpruned_sds = compute_unpruned_deviations(fit, query, unpruned_sd)
    own = np.where(perturbed, 0.0, normal * gradient[-1] * unpruned_sds)
    below = np.hypot(ratio * np.maximum(0.0, -low), own)
    above = np.hypot(ratio * np.maximum(0.0, high), own)
    return below, above


def build_conformal_band(
    form: Form, fit: Fit, *, folds: Folds, query: Query, noise: Floats, confidence: float
) -> Band | None:
    """A band of one more run by jackknife+ in relative deviations, or None with too few folds.

    From score i of fold f, ln error_f(x) - ln(1 +- noise(x) score_i); the limits are the ceil((1 -
    alpha)(n + 1))-th of each. Left out by networks, every network has the same mass and one more is
    at infinity. The band covers with 1 - 2 alpha under exchangeability, in practice with about 1 -
    alpha; it holds for the fitted densities only. Barber, Candes, Ramdas, Tibshirani, Predictive
    inference with the jackknife+, Annals of Statistics 49 (2021).
    """
    fold = np.array(folds.fold)
    score = np.array(folds.missed) * np.sqrt(folds.weight)
    mass = 1.0 / np.bincount(fold)[fold] if folds.of == "networks" else np.ones(len(fold))
    level = confidence * (mass.sum() + 1.0)
    if level > mass.sum() * (1 + 1e-12):
        return None  # the limit would be the point at infinity
    values, _ = form.evaluate(np.array(folds.theta), query.features, query.log_unpruned)
    centre, _ = _evaluate_fit(form, fit, query)
    reach = score[:, None] * noise
    with np.errstate(divide="ignore", invalid="ignore"):
        # A run could measure the law less the whole error: the limit above is then infinite.
        log_shrunk = np.where(reach < 1, np.log1p(-np.minimum(reach, 1.0)), -np.inf)
        above = values[fold] - log_shrunk - centre
    below = centre - values[fold] + np.log1p(reach)
    return _find_quantile(below, mass, level), _find_quantile(above, mass, level)


def _find_quantile(values: Floats, mass: Floats, level: float) -> Floats:
    """The smallest value of every column (n) up to which the mass of the rows reaches the level;
    not below 0.
    """
    order = np.argsort(values, axis=0)
    reached = np.cumsum(mass[order], axis=0) >= level * (1 - 1e-12)
    first = np.argmax(reached, axis=0)[None]
    ordered = np.take_along_axis(values, order, axis=0)
    quantile = np.take_along_axis(ordered, first, axis=0)[0]
    return np.asarray(np.maximum(0.0, quantile))


def inherit_deviation(form: Form, fit: Fit, query: Query, unpruned_sd: float | None) -> Floats:
    """Standard deviation of ln error(law) that a guessed unpruned error brings to a network that
    was not fitted, (n,).
    """
    _, gradient = _evaluate_fit(form, fit, query)
    return np.asarray(np.abs(gradient[-1]) * np.where(query.known, 0.0, unpruned_sd or 0.0))


def add_deviation(band: Band, sd: Floats, dof: int, confidence: float) -> Band:
    """The band with a further independent deviation, in quadrature."""
    width = float(stdtrit(dof, (1 + confidence) / 2)) * sd
    return np.hypot(band[0], width), np.hypot(band[1], width)
