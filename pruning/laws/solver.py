"""Bounded least squares: many small problems of one form at once, and the best of several
starts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from pruning.laws.forms import Flags, Floats, Form, Indices

CHUNK = 1 << 15
"""Values of one array that are worked on at a time: they stay in the cache."""


@dataclass(frozen=True)
class Box:
    """Where each parameter may be, (P,); one whose limits are equal is fixed there."""

    lower: Floats
    upper: Floats

    @property
    def free(self) -> tuple[int, ...]:
        """The indices of the parameters that are fitted."""
        return tuple(int(i) for i in np.flatnonzero(self.upper > self.lower))


@dataclass(frozen=True)
class Rows:
    """What is fitted: features (F, n); ln unpruned error, ln error and weight, (n,) or a row for
    every refit, (B, n).
    """

    features: Floats
    log_unpruned: Floats
    log_error: Floats
    weight: Floats

    def part(self, rows: Indices | slice) -> Rows:
        """The rows of some of the refits."""
        unpruned, error, weight = (
            one if one.ndim == 1 else one[rows]
            for one in (self.log_unpruned, self.log_error, self.weight)
        )
        return Rows(self.features, unpruned, error, weight)

    def points(self, chosen: Flags) -> Rows:
        """Only some of the points, by a mask (n,)."""
        return Rows(
            self.features[:, chosen],
            self.log_unpruned[..., chosen],
            self.log_error[..., chosen],
            self.weight[..., chosen],
        )


def compute_residuals(form: Form, theta: Floats, rows: Rows) -> tuple[Floats, Floats]:
    """The relative residuals, error(theta) / error - 1, (B, n), and their gradient (B, P + 1,
    n).
    """
    value, gradient = form.evaluate(theta, rows.features, rows.log_unpruned)
    quotient = np.exp(np.clip(value - rows.log_error, -50.0, 50.0))
    return quotient - 1.0, gradient * quotient[:, None]


def minimise(
    form: Form, theta: Floats, box: Box, rows: Rows, iterations: int = 200
) -> tuple[Floats, Floats]:
    """The minimum of sum w r^2 from each start of `theta` (B, P), with its value (B,).

    Levenberg and Marquardt with projection on the box: a parameter at a limit that the gradient
    pushes outwards rests. The damping is each problem's own; a problem is done when its step or its
    gain is negligible.
    """
    theta = np.clip(theta, box.lower, box.upper)
    chunk = max(1, CHUNK // max(1, rows.features.shape[1]))
    found = [
        _minimise(form, theta[at : at + chunk], box, rows.part(slice(at, at + chunk)), iterations)
        for at in range(0, len(theta), chunk)
    ]
    return np.concatenate([one for one, _ in found]), np.concatenate([cost for _, cost in found])


def _minimise(
    form: Form, theta: Floats, box: Box, rows: Rows, iterations: int
) -> tuple[Floats, Floats]:
    free = list(box.free)
    lower, upper = box.lower[free], box.upper[free]
    theta, (gradient, hessian, cost) = theta.copy(), _normal(form, theta, rows, free)
    damping, active = np.full(len(theta), 1e-3), np.arange(len(theta)) if free else np.arange(0)
    for _ in range(iterations):
        if not len(active):
            break
        now, g = theta[active][:, free], gradient[active]
        resting = ((now <= lower) & (g > 0)) | ((now >= upper) & (g < 0))
        moving = ~resting
        h = hessian[active] * (moving[:, :, None] & moving[:, None, :])
        scale = np.einsum("bii->bi", h)
        h = h + (
            damping[active, None] * scale + 1e-12 * scale.max(1, keepdims=True) + 1e-300 + resting
        )[:, :, None] * np.eye(len(free))
        step = np.linalg.solve(h, -(g * moving)[..., None])[..., 0]
        trial = theta[active]
        trial[:, free] = np.clip(now + np.clip(step, -3.0, 3.0), lower, upper)
        moved = np.abs(trial[:, free] - now).max(1)
        new = _normal(form, trial, rows.part(active), free)
        better = new[2] < cost[active]
        gain = np.where(better, cost[active] - new[2], np.inf)
        won = active[better]
        theta[won], cost_before = trial[better], cost[active]
        gradient[won], hessian[won], cost[won] = new[0][better], new[1][better], new[2][better]
        damping[active] = np.where(better, damping[active] / 4, damping[active] * 5).clip(
            1e-12, 1e12
        )
        done = (moved < 1e-9) | (gain <= 1e-13 * cost_before + 1e-28)
        active = active[~done]
    return theta, cost


def _normal(
    form: Form, theta: Floats, rows: Rows, free: list[int]
) -> tuple[Floats, Floats, Floats]:
    """J'Wr (B, Q), J'WJ (B, Q, Q) and r'Wr (B,) of the free parameters."""
    residual, gradient = compute_residuals(form, theta, rows)
    jacobian = gradient[:, free]
    weighted = jacobian * (rows.weight if rows.weight.ndim == 1 else rows.weight[:, None])
    return (
        (weighted @ residual[..., None])[..., 0],
        weighted @ jacobian.transpose(0, 2, 1),
        (rows.weight * residual**2).sum(-1),
    )


def minimise_from_starts(form: Form, starts: Floats, box: Box, rows: Rows) -> Floats:
    """The best minimum from several starts (B, P), (P,): all at once, the best one polished by
    scipy's `least_squares`.
    """
    theta, cost = minimise(form, starts, box, rows)
    best: Floats = theta[int(np.argmin(cost))]
    free = list(box.free)
    if not free:
        return best
    root = np.sqrt(rows.weight)

    def at(x: Floats) -> tuple[Floats, Floats]:
        full = best[None].copy()
        full[0, free] = x
        return compute_residuals(form, full, rows)

    def residual(x: Floats) -> Floats:
        return np.asarray(root * at(x)[0][0])

    def jacobian(x: Floats) -> Floats:
        return np.asarray((root * at(x)[1][0, free]).T)

    margin = 1e-12 * np.maximum(1.0, np.abs(box.upper - box.lower))[free]
    inside = np.clip(best[free], box.lower[free] + margin, box.upper[free] - margin)
    found = least_squares(
        residual,
        inside,
        jac=jacobian,
        bounds=(box.lower[free], box.upper[free]),
        x_scale="jac",
        xtol=1e-13,
        ftol=1e-13,
        gtol=1e-13,
        max_nfev=500,
    )
    if 2 * found.cost < cost.min():
        best = best.copy()
        best[free] = found.x
    return best
