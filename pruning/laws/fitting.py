"""Fits, refits and back-tests of one form to the curves of several networks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pruning.errors import InsufficientPointsError
from pruning.laws.curves import Curves
from pruning.laws.documents import BackTest, Fit, Folds, Held, Refits
from pruning.laws.forms import Flags, Floats, Form
from pruning.laws.solver import Box, Rows, compute_residuals, minimise, minimise_from_starts

FOLDS = 64
"""The most groups of points that are left out in turn; up to this many points, each is its own."""
MUTE = 1e-24
"""A parameter that moves the residuals by less, squared and summed, has no say in the fit."""
ENOUGH_NETWORKS = 5
"""The number of networks from which on whole networks are resampled."""
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
    """Relative standard deviation of an unpruned error; None for that of a point, noise /
    sqrt(weight).
    """

    @property
    def rows(self) -> Rows:
        """The points as the solver takes them."""
        return Rows(
            self.features,
            np.log(self.curves.unpruned[self.curves.network]),
            np.log(self.curves.error),
            self.curves.weight,
        )

    def check_enough_points(self) -> None:
        """Raise `InsufficientPointsError` for fewer than two points for each free parameter."""
        free, n = len(self.box.free), len(self.curves)
        if n < 2 * free:
            raise InsufficientPointsError(
                f"{n} points for {free} free parameters: two for each are needed, "
                f"{2 * free - n} more would do"
            )


def fit_curves(problem: Problem) -> tuple[Fit, list[Floats]]:
    """Find the least sum of w (error(law) / error - 1)^2, and the responses R (Q,) of the networks.

    Parameters at a limit, or without a say, are not counted as free. Cov = noise^2 (J'WJ)^-1; by
    the implicit function theorem the parameters move by R = -(J'WJ)^-1 J'W h with ln of the
    unpruned error of a network, h = dr/d(ln unpruned), and the residuals by h + J R: a wrong
    unpruned error shifts them together, which the noise of a point is cleared of.
    """
    rows, box, form = problem.rows, problem.box, problem.form
    theta = minimise_from_starts(form, problem.starts, box, rows)
    residuals, gradients = compute_residuals(form, theta[None], rows)
    residual, gradient = residuals[0], gradients[0]
    free = _find_free(box, theta, gradient, rows.weight)
    jacobian = gradient[free]
    by_unpruned = gradient[-1]
    dof = max(1, len(residual) - len(box.free))
    sigma = float(np.sqrt((rows.weight * residual**2).sum() / dof))
    inverse, condition = _invert_hessian((jacobian * rows.weight) @ jacobian.T)

    pulls = jacobian * rows.weight * by_unpruned
    responses, spreads = [], []
    for k in range(len(problem.curves.unpruned)):
        of_network = problem.curves.network == k
        response = -inverse @ pulls[:, of_network].sum(1)
        shift = by_unpruned * of_network + response @ jacobian  # of the residuals, h + J R
        responses.append(response)
        spreads.append(float((rows.weight * shift**2).sum()))
    noise, unpruned_sds = _separate_noise(sigma**2 * dof, np.array(spreads), dof, problem)
    fit = Fit(
        names=form.names,
        theta=_to_tuple(theta),
        free=tuple(free),
        covariance=_to_tuples(noise**2 * inverse),
        condition=condition,
        sigma=sigma,
        residual_mean=float(residual.mean()),
        residual_sd=float(residual.std()),
        noise=noise,
        degrees_of_freedom=dof,
        unpruned_sd=float(np.sqrt((unpruned_sds**2).mean())),
        unpruned_sds=_to_tuple(unpruned_sds),
    )
    return fit, responses


def _find_free(box: Box, theta: Floats, gradient: Floats, weight: Floats) -> list[int]:
    """The indices of the parameters that ended inside their limits and move the residuals."""
    slack = 1e-6 * (box.upper - box.lower)
    return [
        i
        for i in box.free
        if box.lower[i] + slack[i] < theta[i] < box.upper[i] - slack[i]
        and float((weight * gradient[i] ** 2).sum()) > MUTE
    ]


def _invert_hessian(hessian: Floats) -> tuple[Floats, float | None]:
    """(J'WJ)^-1 and the condition number with unit diagonal; None where nothing is free."""
    if not len(hessian):
        return np.zeros((0, 0)), None
    scale = np.sqrt(np.diag(hessian))
    unit = hessian / np.outer(scale, scale)
    inverse = np.linalg.pinv(unit, hermitian=True) / np.outer(scale, scale)
    return inverse, float(min(np.linalg.cond(unit), 1e300))


def _separate_noise(
    total: float, spreads: Floats, dof: int, problem: Problem
) -> tuple[float, Floats]:
    """Standard deviations: of a point of weight 1, and of every network's unpruned error s_k, (K,).

    E sum w r^2 = v dof + sum_k s_k^2 spread_k, where s_k^2 is given or v / w_k, w_k the weight of
    the unpruned error.
    """
    weight = problem.curves.unpruned_weight
    if problem.unpruned_sd is None:
        noise = float(np.sqrt(total / (dof + (spreads / weight).sum())))
        return noise, noise / np.sqrt(weight)
    unpruned_sds = np.full(len(spreads), problem.unpruned_sd)
    # At least a quarter of the residuals is noise, however uncertain the unpruned errors are said
    # to be.
    remaining = max(total - (unpruned_sds**2 * spreads).sum(), 0.25 * total)
    return float(np.sqrt(remaining / dof)), unpruned_sds


def leave_out(problem: Problem, theta: Floats, of: str) -> Folds | None:
    """Fit without each point (or one of FOLDS interleaved groups), or without each network; None
    with fewer than two.
    """
    curves = problem.curves
    n = len(curves)
    groups = curves.network if of == "networks" else np.arange(n) % min(n, FOLDS)
    count = int(groups.max()) + 1
    if count < 2:
        return None
    left_out = groups[None] == np.arange(count)[:, None]
    weight = np.where(left_out, 0.0, curves.weight[None])
    rows = problem.rows
    thetas = refit_curves(
        problem, theta, Rows(rows.features, rows.log_unpruned, rows.log_error, weight)
    )
    value, _ = problem.form.evaluate(thetas, rows.features, rows.log_unpruned)
    missed = np.abs(np.expm1(value[groups, np.arange(n)] - rows.log_error))
    return Folds(
        of=of,
        theta=_to_tuples(thetas),
        fold=tuple(groups.tolist()),
        missed=_to_tuple(missed),
        weight=_to_tuple(curves.weight),
    )


def refit_curves(problem: Problem, theta: Floats, rows: Rows) -> Floats:
    """The best of the fits from the optimum and from two other starts, for every row of the data,
    (B, P).
    """
    count = max(
        values.shape[0]
        for values in (rows.weight, rows.log_error, rows.log_unpruned)
        if values.ndim == 2
    )
    # The two starts that are best after three steps on the data as they are.
    _, costs = minimise(problem.form, problem.starts, problem.box, problem.rows, iterations=3)
    order = np.argsort(costs, kind="stable")
    best = np.zeros((count, len(theta)))
    least = np.full(count, np.inf)
    for start in (theta, *problem.starts[order[:2]]):
        starts = np.repeat(start[None], count, 0)
        minima, cost = minimise(problem.form, starts, problem.box, rows)
        better = cost < least
        best[better], least[better] = minima[better], cost[better]
    return best


def resample_fits(problem: Problem, fit: Fit, count: int, rng: np.random.Generator) -> Refits:
    """Fit `count` times to resampled data: whole networks where there are five, else points and
    trials, else residuals.

    Networks (and trials within them) are drawn with replacement: what they share stays together.
    One network has nothing to draw but residuals, z = ln(error / law) enlarged by sqrt(n / degrees
    of freedom), and its unpruned error is perturbed by its own standard deviation. Deviations are
    widened by sqrt(k / (k - 1)) for k clusters.
    """
    curves, rows = problem.curves, problem.rows
    n, networks, trials = len(curves), len(curves.unpruned), curves.cells.shape[1]
    theta = np.array(fit.theta)
    shift = np.zeros((count, 0))
    log_unpruned, log_error, weight = rows.log_unpruned, rows.log_error, rows.weight
    widen, dof = 1.0, fit.degrees_of_freedom
    if trials > 1:
        errors, unpruned = _draw_trials(curves, count, rng)
        log_error, log_unpruned = np.log(errors), np.log(unpruned)[:, curves.network]
    if networks >= ENOUGH_NETWORKS:
        resampled = "networks and trials" if trials > 1 else "networks"
        times_drawn = rng.multinomial(networks, np.full(networks, 1 / networks), count)
        weight = times_drawn[:, curves.network] * weight
        widen, dof = np.sqrt(networks / (networks - 1)), networks - 1
    elif trials > 1:
        resampled = "points and trials"
        weight = rng.multinomial(n, np.full(n, 1 / n), count) * weight
        shift = np.log(unpruned / curves.unpruned)
        widen = np.sqrt(trials / (trials - 1))
    else:
        resampled = "residuals"
        value = problem.form.evaluate(theta[None], rows.features, log_unpruned)[0][0]
        # z in units of a point of weight 1, so that points of any weight may exchange theirs.
        z = (log_error - value) * np.sqrt(curves.weight * n / fit.degrees_of_freedom)
        z = (z - z.mean())[rng.integers(n, size=(count, n))] / np.sqrt(curves.weight)
        shift = np.array(fit.unpruned_sds) * rng.standard_normal((count, networks))
        log_error, log_unpruned = value + z, log_unpruned + shift[:, curves.network]
    weights = np.broadcast_to(weight, (count, n))
    thetas = refit_curves(problem, theta, Rows(rows.features, log_unpruned, log_error, weights))
    return Refits(
        of=resampled,
        theta=_to_tuples(thetas),
        shift=_to_tuples(shift) if shift.size else (),
        widen=float(widen),
        degrees_of_freedom=dof,
    )


def _draw_trials(curves: Curves, count: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Means over trials drawn with replacement by network: errors (B, n) and unpruned errors (B,
    K).
    """
    trials = curves.cells.shape[1]
    size = (count, len(curves.unpruned))
    times_drawn = rng.multinomial(trials, np.full(trials, 1 / trials), size).astype(float)
    return (
        _average_trials(curves.cells, times_drawn[:, curves.network], curves.error),
        _average_trials(curves.unpruned_cells, times_drawn, curves.unpruned),
    )


def _average_trials(cells: Floats, times: Floats, plain: Floats) -> Floats:
    """The mean over measured trials, each counted `times`; the plain mean where none was drawn."""
    measured = ~np.isnan(cells)
    total = (times * measured).sum(-1)
    with np.errstate(invalid="ignore"):
        means = (times * np.where(measured, cells, 0.0)).sum(-1) / total
        return np.where(total > 0, means, plain)


def back_test(problem: Problem) -> tuple[BackTest | None, str]:
    """Fit on the denser two thirds of every network and predict the rest; or say why not."""
    curves, rows = problem.curves, problem.rows
    held = _hold_out_sparsest(curves)
    free = len(problem.box.free)
    if not held.any() or (~held).sum() < free + 1:
        return None, (
            f"no back-test: {len(curves)} points are too few to hold some out; "
            f"{_count_needed_points(free)} on one network would do"
        )
    theta = minimise_from_starts(
        problem.form, problem.starts, problem.box, rows.select_points(~held)
    )
    value = problem.form.evaluate(theta[None], rows.features, rows.log_unpruned)[0][0]
    sparsest_fitted = np.array(
        [
            curves.density[(curves.network == k) & ~held].min(initial=1.0)
            for k in range(len(curves.unpruned))
        ]
    )
    distances = np.log(sparsest_fitted[curves.network[held]] / curves.density[held])
    rises = (curves.error / curves.unpruned[curves.network])[~held]
    summary = summarise_back_test(
        problem, held, value, reach=float(distances.mean()), highest_rise=float(rises.max())
    )
    return summary, ""


def _hold_out_sparsest(curves: Curves) -> Flags:
    """The mask of the sparsest third of every network's points, (n,)."""
    held = np.zeros(len(curves), bool)
    for k in range(len(curves.unpruned)):
        points = np.flatnonzero(curves.network == k)
        points = points[np.argsort(curves.density[points])]
        held[points[: int(len(points) * HOLD_OUT)]] = True
    return held


def _count_needed_points(free: int) -> int:
    """The fewest points of one network of which some can be held out."""
    for n in range(2, 10 * free + 10):
        held = int(n * HOLD_OUT)
        if held >= 1 and n - held >= free + 1:
            return n
    raise AssertionError("some number of points leaves enough to fit")


def summarise_back_test(
    problem: Problem, held: Flags, log_error: Floats, *, reach: float, highest_rise: float | None
) -> BackTest:
    """The document of a back-test, from the predicted ln error of all points, (n,)."""
    curves = problem.curves
    deviation = log_error[held] - problem.rows.log_error[held]
    points = tuple(
        Held(
            network=int(curves.network[i]),
            density=float(curves.density[i]),
            measured=float(curves.error[i]),
            predicted=float(np.exp(log_error[i])),
        )
        for i in np.flatnonzero(held)
    )
    return BackTest(
        points=points,
        mean_absolute=float(np.abs(np.expm1(deviation)).mean()),
        bias=float(np.expm1(deviation).mean()),
        root_mean_square=float(np.sqrt((deviation**2).mean())),
        reach=reach,
        highest_rise=highest_rise,
    )


def _to_tuple(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _to_tuples(rows: Floats) -> tuple[tuple[float, ...], ...]:
    return tuple(_to_tuple(row) for row in rows)
