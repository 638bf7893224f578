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
    """The data of a fit: features (F, n); ln unpruned error, ln error and weight, (n,) or a row for
    every refit, (B, n).
    """

    features: Floats
    log_unpruned: Floats
    log_error: Floats
    weight: Floats

    def select_refits(self, refits: Indices | slice) -> Rows:
        """The data of some of the refits; arrays that all refits share stay as they are."""
        log_unpruned, log_error, weight = (
            values if values.ndim == 1 else values[refits]
            for values in (self.log_unpruned, self.log_error, self.weight)
        )
        return Rows(self.features, log_unpruned, log_error, weight)

    def select_points(self, chosen: Flags) -> Rows:
        """The data of some of the points, by a mask (n,)."""
        return Rows(
            self.features[:, chosen],
            self.log_unpruned[..., chosen],
            self.log_error[..., chosen],
            self.weight[..., chosen],
        )


def compute_residuals(form: Form, theta: Floats, rows: Rows) -> tuple[Floats, Floats]:
    """Relative residuals, error(theta) / error - 1, (B, n), and their gradient, (B, P + 1, n)."""
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
    minima, costs = [], []
    for start in range(0, len(theta), chunk):
        part = slice(start, start + chunk)
        minimum, cost = _minimise_chunk(
            form, theta[part], box, rows.select_refits(part), iterations
        )
        minima.append(minimum)
        costs.append(cost)
    return np.concatenate(minima), np.concatenate(costs)


def _minimise_chunk(
    form: Form, theta: Floats, box: Box, rows: Rows, iterations: int
) -> tuple[Floats, Floats]:
    """Iterate all problems of a chunk together; those that are done drop out of `active`."""
    free = list(box.free)
    lower, upper = box.lower[free], box.upper[free]
    theta = theta.copy()
    gradient, hessian, cost = _form_normal_equations(form, theta, rows, free)
    damping = np.full(len(theta), 1e-3)
    active = np.arange(len(theta)) if free else np.arange(0)
    for _ in range(iterations):
        if not len(active):
            break
        current = theta[active][:, free]
        step = _solve_step(
            current, gradient[active], hessian[active], damping[active, None], (lower, upper)
        )
        # No step is longer than 3 in any (logarithmic) parameter: a factor of 20.
        attempt = theta[active]
        attempt[:, free] = np.clip(current + np.clip(step, -3.0, 3.0), lower, upper)
        moved = np.abs(attempt[:, free] - current).max(1)
        new_gradient, new_hessian, new_cost = _form_normal_equations(
            form, attempt, rows.select_refits(active), free
        )
        cost_before = cost[active]
        better = new_cost < cost_before
        # A step that did not help has no gain: it is not an end, the damping is raised instead.
        gain = np.where(better, cost_before - new_cost, np.inf)
        improved = active[better]
        theta[improved] = attempt[better]
        gradient[improved] = new_gradient[better]
        hessian[improved] = new_hessian[better]
        cost[improved] = new_cost[better]
        new_damping = np.where(better, damping[active] / 4, damping[active] * 5)
        damping[active] = new_damping.clip(1e-12, 1e12)
        done = (moved < 1e-9) | (gain <= 1e-13 * cost_before + 1e-28)
        active = active[~done]
    return theta, cost


def _solve_step(
    current: Floats,
    gradient: Floats,
    hessian: Floats,
    damping: Floats,
    limits: tuple[Floats, Floats],
) -> Floats:
    """The damped Gauss-Newton step of every problem, (B, Q), 0 for parameters that rest."""
    lower, upper = limits
    resting = ((current <= lower) & (gradient > 0)) | ((current >= upper) & (gradient < 0))
    moving = ~resting
    # Rows and columns of resting parameters are set to 0, and their diagonal to 1 below: the
    # system stays solvable and their step is 0.
    h = hessian * (moving[:, :, None] & moving[:, None, :])
    scale = np.einsum("bii->bi", h)
    # Marquardt's damping by the diagonal; the small terms keep a flat problem from being singular.
    diagonal = damping * scale + 1e-12 * scale.max(1, keepdims=True) + 1e-300 + resting
    h = h + diagonal[:, :, None] * np.eye(current.shape[1])
    return np.asarray(np.linalg.solve(h, -(gradient * moving)[..., None])[..., 0])


def _form_normal_equations(
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

    def evaluate(x: Floats) -> tuple[Floats, Floats]:
        full = best[None].copy()
        full[0, free] = x
        return compute_residuals(form, full, rows)

    def residual(x: Floats) -> Floats:
        return np.asarray(root * evaluate(x)[0][0])

    def jacobian(x: Floats) -> Floats:
        return np.asarray((root * evaluate(x)[1][0, free]).T)

    # scipy starts strictly inside the limits.
    margin = 1e-12 * np.maximum(1.0, np.abs(box.upper - box.lower))[free]
    inside = np.clip(best[free], box.lower[free] + margin, box.upper[free] - margin)
    polished = least_squares(
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
    if 2 * polished.cost < cost.min():  # scipy's cost is half the sum of squares
        best = best.copy()
        best[free] = polished.x
    return best
