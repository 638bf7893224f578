"""Bands of a fitted law: of its curve by the delta method or by refits, of one more run by
cross-conformal prediction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtrit

from pruning.laws.documents import Fit, Folds, Refits
from pruning.laws.forms import Flags, Floats, Form, Indices


@dataclass(frozen=True)
class Query:
    """Where a law is asked: features (F, n), ln unpruned error, and which fitted network it is, -1
    for none, (n,).
    """

    features: Floats
    log_unpruned: Floats
    network: Indices

    @property
    def known(self) -> Flags:
        """Whether the network was fitted, (n,)."""
        return np.asarray(self.network >= 0)


Band = tuple[Floats, Floats]
"""How far the limits are below and above ln error, (n,) each and not negative."""


def compute_deviation(
    form: Form, fit: Fit, responses: Floats, query: Query, unpruned_sd: float | None = None
) -> Floats:
    """Standard deviation of ln error(law) by the delta method, (n,).

    g' C g + sum_k s_k^2 (g' R_k)^2 + s^2 (2 h g' R(x) + h^2): g is the gradient by the free
    parameters, C their covariance, h the gradient by ln unpruned, s_k its standard deviation of
    network k and R_k, the rows of `responses` (K, Q), how the parameters move with it; s and R(x)
    are those of the network that is asked for. `unpruned_sd` is the s of a network that was not
    fitted, whose R is 0.
    """
    _, gradient = form.evaluate(np.array(fit.theta)[None], query.features, query.log_unpruned)
    g, h = gradient[0, list(fit.free)], gradient[0, -1]
    s, variance = compute_unpruned_deviations(fit, query, unpruned_sd), np.zeros(len(h))
    if fit.free:
        pulls = responses @ g
        each = (
            np.array(fit.unpruned_sds)
            if fit.unpruned_sds
            else np.full(len(responses), fit.unpruned_sd)
        )
        variance = np.einsum("qn,qr,rn->n", g, np.array(fit.covariance), g) + each**2 @ pulls**2
        own = np.take_along_axis(pulls, np.maximum(query.network, 0)[None], axis=0)[0]
        variance += np.where(query.known, 2 * s**2 * h * own, 0.0)
    return np.asarray(np.sqrt(np.maximum(0.0, variance + h**2 * s**2)))


def compute_unpruned_deviations(fit: Fit, query: Query, fresh: float | None) -> Floats:
    """Relative standard deviation of the unpruned error at every query, (n,); `fresh` is that of a
    network not fitted.
    """
    other = fit.unpruned_sd if fresh is None else fresh
    if not fit.unpruned_sds:  # a law of an earlier version
        return np.where(query.known, fit.unpruned_sd, other)
    return np.append(fit.unpruned_sds, other)[query.network]


def build_normal_band(sd: Floats, dof: int, confidence: float) -> Band:
    """Symmetric in ln error: Student's t times the standard deviation."""
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
    theta, many = np.array(refits.theta), len(refits.theta)
    shifted = np.broadcast_to(query.log_unpruned, (many, len(query.network)))
    inside = query.known if refits.shift else np.zeros(len(query.network), bool)
    if refits.shift:
        shifted = shifted + np.where(
            inside, np.array(refits.shift)[:, np.maximum(query.network, 0)], 0.0
        )
    values, _ = form.evaluate(theta, query.features, shifted)
    centre, gradient = form.evaluate(np.array(fit.theta)[None], query.features, query.log_unpruned)
    tail = (1 - confidence) / 2
    low, high = np.quantile(values - centre, [tail, 1 - tail], axis=0)
    ratio = float(stdtrit(refits.degrees_of_freedom, 1 - tail) / ndtri(1 - tail)) * refits.widen
    own = np.where(
        inside,
        0.0,
        ndtri(1 - tail) * gradient[0, -1] * compute_unpruned_deviations(fit, query, unpruned_sd),
    )
    return np.hypot(ratio * np.maximum(0.0, -low), own), np.hypot(
        ratio * np.maximum(0.0, high), own
    )


def build_conformal_band(
    form: Form, fit: Fit, *, folds: Folds, query: Query, noise: Floats, confidence: float
) -> Band | None:
    """A band of one more run by jackknife+ in relative deviations, or None where there are too few
    folds.

    From score i of fold f, ln error_f(x) - ln(1 +- noise(x) score_i); the limits are the ceil((1 -
    alpha)(n + 1))-th of each. Left out by networks, every network has the same mass and one more is
    at infinity. Covers with 1 - 2 alpha under exchangeability, in practice with about 1 - alpha;
    says nothing of other densities than those fitted. Barber, Candes, Ramdas, Tibshirani,
    Predictive inference with the jackknife+, Annals of Statistics 49 (2021).
    """
    fold, score = np.array(folds.fold), np.array(folds.missed) * np.sqrt(folds.weight)
    mass = 1.0 / np.bincount(fold)[fold] if folds.of == "networks" else np.ones(len(fold))
    level = confidence * (mass.sum() + 1.0)
    if level > mass.sum() * (1 + 1e-12):
        return None
    values, _ = form.evaluate(np.array(folds.theta), query.features, query.log_unpruned)
    centre = form.evaluate(np.array(fit.theta)[None], query.features, query.log_unpruned)[0][0]
    reach = score[:, None] * noise
    with np.errstate(divide="ignore", invalid="ignore"):
        above = (
            values[fold] - np.where(reach < 1, np.log1p(-np.minimum(reach, 1.0)), -np.inf) - centre
        )
    below = centre - values[fold] + np.log1p(reach)
    return _quantile(below, mass, level), _quantile(above, mass, level)


def _quantile(values: Floats, mass: Floats, level: float) -> Floats:
    """The smallest value of every column (n) up to which the mass of the rows reaches the level;
    not below 0.
    """
    order = np.argsort(values, axis=0)
    reached = np.cumsum(mass[order], axis=0) >= level * (1 - 1e-12)
    at = np.argmax(reached, axis=0)[None]
    return np.asarray(
        np.maximum(
            0.0, np.take_along_axis(np.take_along_axis(values, order, axis=0), at, axis=0)[0]
        )
    )


def inherit_deviation(form: Form, fit: Fit, query: Query, unpruned_sd: float | None) -> Floats:
    """Standard deviation of ln error(law) that a guessed unpruned error brings to a network that
    was not fitted, (n,).
    """
    _, gradient = form.evaluate(np.array(fit.theta)[None], query.features, query.log_unpruned)
    return np.asarray(np.abs(gradient[0, -1]) * np.where(query.known, 0.0, unpruned_sd or 0.0))


def add_deviation(band: Band, sd: Floats, dof: int, confidence: float) -> Band:
    """The band with a further independent deviation, in quadrature."""
    width = float(stdtrit(dof, (1 + confidence) / 2)) * sd
    return np.hypot(band[0], width), np.hypot(band[1], width)
