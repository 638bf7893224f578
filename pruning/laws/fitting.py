"""Fits, refits and back-tests of one form to the curves of several networks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pruning.errors import InsufficientPointsError
from pruning.laws.curves import Curves
from pruning.laws.documents import BackTest, Fit, Folds, Held, Refits
from pruning.laws.forms import Floats, Form
from pruning.laws.solver import Box, Rows, compute_residuals, minimise, minimise_from_starts

FOLDS = 64
"""Points are left out one by one up to so many, else in so many groups."""
MUTE = 1e-24
"""A parameter that moves the residuals by less, squared and summed, has no say in the fit."""
FEW_NETWORKS = 5
"""From so many networks on they are what is resampled."""
HOLD_OUT = 1 / 3
"""Fraction of every network's points, the sparsest, that the back-test predicts."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A form, where its parameters may be, starts (B, P), and the points."""

    form: Form
    box: Box
    starts: Floats
    features: Floats
    curves: Curves
    unpruned_sd: float | None
    """Relative; None for that of a point: noise / sqrt(weight)."""

    @property
    def rows(self) -> Rows:
        """What the solver takes."""
        return Rows(
            self.features,
            np.log(self.curves.unpruned[self.curves.network]),
            np.log(self.curves.error),
            self.curves.weight,
        )

    def enough(self) -> None:
        """Two points for every free parameter, or `InsufficientPointsError`."""
        free, n = len(self.box.free), len(self.curves)
        if n < 2 * free:
            raise InsufficientPointsError(
                f"{n} points for {free} free parameters: two for each are needed, "
                f"{2 * free - n} more would do"
            )


def fit_curves(problem: Problem) -> tuple[Fit, list[Floats]]:
    """The least sum of w (error(law) / error - 1)^2, and its statistics.

    Parameters at a limit, or without a say, are not counted as free. Cov = noise^2 (J'WJ)^-1; by
    the implicit function theorem the parameters move by R = -(J'WJ)^-1 J'W h with ln of the
    unpruned error of a network, h = dr/d(ln unpruned), and the residuals by h + J R: a wrong
    unpruned error shifts them together, which the noise of a point is cleared of.
    """
    rows, box, form = problem.rows, problem.box, problem.form
    theta = minimise_from_starts(form, problem.starts, box, rows)
    slack = 1e-6 * (box.upper - box.lower)
    residual, gradient = (one[0] for one in compute_residuals(form, theta[None], rows))
    free = [
        i
        for i in box.free
        if box.lower[i] + slack[i] < theta[i] < box.upper[i] - slack[i]
        and float((rows.weight * gradient[i] ** 2).sum()) > MUTE
    ]
    jacobian, n = gradient[free], len(residual)
    dof = max(1, n - len(box.free))
    sigma = float(np.sqrt((rows.weight * residual**2).sum() / dof))
    hessian = (jacobian * rows.weight) @ jacobian.T
    scale = np.sqrt(np.diag(hessian)) if free else np.ones(0)
    unit = hessian / np.outer(scale, scale)
    inverse = (
        np.linalg.pinv(unit, hermitian=True) / np.outer(scale, scale) if free else np.zeros((0, 0))
    )
    pulls = jacobian * rows.weight * gradient[-1]
    responses, spreads = [], []
    for k in range(len(problem.curves.unpruned)):
        mine = problem.curves.network == k
        responses.append(-inverse @ pulls[:, mine].sum(1))
        spreads.append(
            float((rows.weight * (gradient[-1] * mine + responses[-1] @ jacobian) ** 2).sum())
        )
    noise, sds = _noise(sigma**2 * dof, np.array(spreads), dof, problem)
    return Fit(
        names=form.names,
        theta=_tuple(theta),
        free=tuple(free),
        covariance=tuple(map(_tuple, noise**2 * inverse)),
        condition=float(min(np.linalg.cond(unit), 1e300)) if free else None,
        sigma=sigma,
        residual_mean=float(residual.mean()),
        residual_sd=float(residual.std()),
        noise=noise,
        degrees_of_freedom=dof,
        unpruned_sd=float(np.sqrt((sds**2).mean())),
        unpruned_sds=_tuple(sds),
    ), responses


def _noise(total: float, spreads: Floats, dof: int, problem: Problem) -> tuple[float, Floats]:
    """Standard deviations: of a point of weight 1, and of every network's unpruned error s_k, (K,).

    E sum w r^2 = v dof + sum_k s_k^2 spread_k, where s_k^2 is given or v / w_k, w_k the weight of
    the unpruned error.
    """
    weight = problem.curves.unpruned_weight
    if problem.unpruned_sd is None:
        noise = float(np.sqrt(total / (dof + (spreads / weight).sum())))
        return noise, noise / np.sqrt(weight)
    given = np.full(len(spreads), problem.unpruned_sd)
    return float(np.sqrt(max(total - (given**2 * spreads).sum(), 0.25 * total) / dof)), given


def leave_out(problem: Problem, theta: Floats, of: str) -> Folds | None:
    """Fits without each point (or one of FOLDS interleaved groups), or without each network; None
    with fewer than two.
    """
    curves = problem.curves
    n = len(curves)
    groups = curves.network if of == "networks" else np.arange(n) % min(n, FOLDS)
    count = int(groups.max()) + 1
    if count < 2:
        return None
    weight = np.where(groups[None] == np.arange(count)[:, None], 0.0, curves.weight[None])
    rows = problem.rows
    found = refit_curves(
        problem, theta, Rows(rows.features, rows.log_unpruned, rows.log_error, weight)
    )
    value, _ = problem.form.evaluate(found, rows.features, rows.log_unpruned)
    missed = np.abs(np.expm1(value[groups, np.arange(n)] - rows.log_error))
    return Folds(
        of=of,
        theta=tuple(map(_tuple, found)),
        fold=tuple(groups.tolist()),
        missed=_tuple(missed),
        weight=_tuple(curves.weight),
    )


def refit_curves(problem: Problem, theta: Floats, rows: Rows) -> Floats:
    """The best of the fits from the optimum and from two other starts, for every row of the data,
    (B, P).
    """
    many = max(
        one.shape[0] for one in (rows.weight, rows.log_error, rows.log_unpruned) if one.ndim == 2
    )
    order = np.argsort(
        minimise(problem.form, problem.starts, problem.box, problem.rows, iterations=3)[1],
        kind="stable",
    )
    best, least = np.zeros((many, len(theta))), np.full(many, np.inf)
    for start in (theta, *problem.starts[order[:2]]):
        found, cost = minimise(problem.form, np.repeat(start[None], many, 0), problem.box, rows)
        better = cost < least
        best[better], least[better] = found[better], cost[better]
    return best


def resample_fits(problem: Problem, found: Fit, count: int, rng: np.random.Generator) -> Refits:
    """`count` fits to resampled data: whole networks where there are five, else points and trials,
    else residuals.

    Networks (and trials within them) are drawn with replacement: what they share stays together.
    One network has nothing to draw but residuals, z = ln(error / law) enlarged by sqrt(n / degrees
    of freedom), and its unpruned error is perturbed by its own standard deviation. Deviations are
    widened by sqrt(k / (k - 1)) for k clusters.
    """
    curves, rows = problem.curves, problem.rows
    n, networks, trials = len(curves), len(curves.unpruned), curves.cells.shape[1]
    theta, shift = np.array(found.theta), np.zeros((count, 0))
    unpruned, error, weight = rows.log_unpruned, rows.log_error, rows.weight
    widen, dof = 1.0, found.degrees_of_freedom
    if trials > 1:
        errors, dense = _draw_trials(curves, count, rng)
        error, unpruned = np.log(errors), np.log(dense)[:, curves.network]
    if networks >= FEW_NETWORKS:
        of = "networks and trials" if trials > 1 else "networks"
        weight = (
            rng.multinomial(networks, np.full(networks, 1 / networks), count)[:, curves.network]
            * weight
        )
        widen, dof = np.sqrt(networks / (networks - 1)), networks - 1
    elif trials > 1:
        of = "points and trials"
        weight = rng.multinomial(n, np.full(n, 1 / n), count) * weight
        shift, widen = np.log(dense / curves.unpruned), np.sqrt(trials / (trials - 1))
    else:
        of = "residuals"
        value = problem.form.evaluate(theta[None], rows.features, unpruned)[0][0]
        z = (error - value) * np.sqrt(curves.weight * n / found.degrees_of_freedom)
        z = (z - z.mean())[rng.integers(n, size=(count, n))] / np.sqrt(curves.weight)
        shift = np.array(found.unpruned_sds) * rng.standard_normal((count, networks))
        error, unpruned = value + z, unpruned + shift[:, curves.network]
    thetas = refit_curves(
        problem, theta, Rows(rows.features, unpruned, error, np.broadcast_to(weight, (count, n)))
    )
    return Refits(
        of=of,
        theta=tuple(map(_tuple, thetas)),
        shift=tuple(map(_tuple, shift)) if shift.size else (),
        widen=float(widen),
        degrees_of_freedom=dof,
    )


def back_test(problem: Problem) -> tuple[BackTest | None, str]:
    """Fit on the denser two thirds of every network, predict the rest; or why there is none."""
    curves = problem.curves
    held = np.zeros(len(curves), bool)
    for k in range(len(curves.unpruned)):
        mine = np.flatnonzero(curves.network == k)
        mine = mine[np.argsort(curves.density[mine])]
        held[mine[: int(len(mine) * HOLD_OUT)]] = True
    free = len(problem.box.free)
    if not held.any() or (~held).sum() < free + 1:
        need = next(
            n
            for n in range(2, 10 * free + 10)
            if n - int(n * HOLD_OUT) >= free + 1 and int(n * HOLD_OUT) >= 1
        )
        return (
            None,
            f"no back-test: {len(curves)} points are too few to hold some out; {need} on one "
            "network would do",
        )
    rows = problem.rows
    theta = minimise_from_starts(problem.form, problem.starts, problem.box, rows.points(~held))
    value = problem.form.evaluate(theta[None], rows.features, rows.log_unpruned)[0][0]
    sparsest = np.array(
        [
            curves.density[(curves.network == k) & ~held].min(initial=1.0)
            for k in range(len(curves.unpruned))
        ]
    )
    deviation = value[held] - rows.log_error[held]
    points = tuple(
        Held(
            network=int(curves.network[i]),
            density=float(curves.density[i]),
            measured=float(curves.error[i]),
            predicted=float(np.exp(value[i])),
        )
        for i in np.flatnonzero(held)
    )
    rises = (curves.error / curves.unpruned[curves.network])[~held]
    return BackTest(
        points=points,
        mean_absolute=float(np.abs(np.expm1(deviation)).mean()),
        bias=float(np.expm1(deviation).mean()),
        root_mean_square=float(np.sqrt((deviation**2).mean())),
        reach=float(np.log(sparsest[curves.network[held]] / curves.density[held]).mean()),
        highest_rise=float(rises.max()),
    ), ""


def _draw_trials(curves: Curves, count: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Means over trials drawn with replacement by network: errors (B, n) and unpruned errors (B,
    K).
    """
    trials = curves.cells.shape[1]
    drawn = rng.multinomial(
        trials, np.full(trials, 1 / trials), (count, len(curves.unpruned))
    ).astype(float)

    def mean(cells: Floats, times: Floats, plain: Floats) -> Floats:
        there = ~np.isnan(cells)
        total = (times * there).sum(-1)
        with np.errstate(invalid="ignore"):
            return np.where(total > 0, (times * np.where(there, cells, 0.0)).sum(-1) / total, plain)

    return (
        mean(curves.cells, drawn[:, curves.network], curves.error),
        mean(curves.unpruned_cells, drawn, curves.unpruned),
    )


def _tuple(values: Floats) -> tuple[float, ...]:
    return tuple(float(one) for one in values)
