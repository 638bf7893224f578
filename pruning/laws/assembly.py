"""From measured points to a pruning law: which parameters are fitted, between which limits, from
which starts.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pruning.errors import CurveError, InsufficientPointsError, ParameterError
from pruning.laws.curves import ILL_CONDITIONED, OVER, RISE, Curves
from pruning.laws.documents import Fit, NetworkCurve, Point
from pruning.laws.fitting import Problem, back_test, fit_curves, leave_out, resample_fits
from pruning.laws.forms import Floats, PruningForm
from pruning.laws.seeds import pool_seed_effect
from pruning.laws.solver import Box

# Limits of gamma, of p (of a typical network) and of the exponents phi and psi; and their starts.
GAMMA = (0.02, 20.0)
P = (1e-8, 1.0)
EXPONENT = (-6.0, 6.0)
GAMMA_STARTS = (0.2, 0.5, 1.0, 2.0)
P_STARTS = (1e-4, 1e-3, 1e-2, 0.05)
EXPONENT_STARTS = ((0.0, 0.0), (0.8, 1.5))
LOOSE = 0.10
"""A law whose points are this far off on average does not describe them."""
MANY_REFITS = 10_000
"""The most refits that a fit takes."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a fit, the same for every law of pruned networks."""

    classes: int | None
    guessing_error: float | None = None
    plateau: float | None
    images: int | None
    unpruned_sd: float | None
    refits: int
    seed: int

    def __post_init__(self) -> None:
        chance = self.chance
        if self.plateau is not None and not 0 < self.plateau <= chance:
            raise ParameterError(
                f"plateau: {self.plateau:g}; above 0 and at most chance, {chance:g}"
            )
        if self.unpruned_sd is not None and not 0 <= self.unpruned_sd < 1:
            raise ParameterError(
                f"unpruned_sd: {self.unpruned_sd:g}; a relative standard deviation from 0 to 1"
            )
        if not 0 <= self.refits <= MANY_REFITS:
            raise ParameterError(f"refits: {self.refits}; 0 (delta method) to {MANY_REFITS}")
        if 0 < self.refits < 20:
            raise ParameterError(
                f"refits: {self.refits}; at least 20 for percentiles, or 0 for the delta method"
            )

    @property
    def chance(self) -> float:
        """The error of guessing, as given or else 1 - 1/classes; 1 where neither is known."""
        return choose_chance(self.classes, self.guessing_error)

    def limit_plateau(self, highest: float, unpruned: float) -> tuple[float, float]:
        """The limits of the plateau: chance (or as given), and free only where an error is above
        half of it.

        Noise lifts the highest of many errors above the plateau that they are on, so the plateau
        may be a little below that error.
        """
        if self.plateau is not None:
            if highest > self.plateau * (1 + OVER):
                raise CurveError(
                    f"an error of {highest:g} is above the plateau that was fixed, {self.plateau:g}"
                )
            return self.plateau, self.plateau
        if highest <= self.chance / 2:
            return self.chance, self.chance
        # Where pruning only helped, the unpruned error is the highest; the plateau is above it.
        above_unpruned = min(1.01 * unpruned, (unpruned + self.chance) / 2)
        return min(self.chance, max(highest / (1 + OVER), above_unpruned)), self.chance


def choose_chance(classes: int | None, guessing_error: float | None) -> float:
    """The error of guessing: as given, or else 1 - 1/classes, which is that of labels of which
    each class has as many; 1 where neither is known.

    >>> choose_chance(10, None), choose_chance(2, 0.1), choose_chance(None, None)
    (0.9, 0.1, 1.0)
    """
    if classes is not None and classes < 2:
        raise ParameterError(f"classes: {classes}; at least 2, or None where chance is not known")
    if guessing_error is not None and not 0 < guessing_error <= 1:
        raise ParameterError(
            f"guessing_error: {guessing_error:g}; above 0 and at most 1, the error of the best "
            "constant answer, or None for 1 - 1/classes"
        )
    if guessing_error is not None:
        return guessing_error
    return 1.0 if classes is None else 1.0 - 1.0 / classes


def assemble_fields(
    curves: Curves, exponents: tuple[bool, bool], options: Options
) -> dict[str, Any]:
    """The fields of a pruning law; `exponents` says whether phi and psi are fitted.

    Depth and width are taken in units of their geometric means, so that p is that of a typical
    network and hardly moves with the exponents. Raises `CurveError` and `InsufficientPointsError`.
    """
    plateau_limits, plateau_assumed = _limit_plateau(curves, exponents, options)
    centre = tuple(float(np.exp(np.log(sizes).mean())) for sizes in (curves.depth, curves.width))
    problem = _state_problem(curves, exponents, options, plateau_limits, centre)
    problem.check_enough_points()

    fit, responses = fit_curves(problem)
    theta, rows = np.array(fit.theta), problem.rows
    value = problem.form.evaluate(theta[None], rows.features, rows.log_unpruned)[0][0]
    back_tested, no_back_test = back_test(problem)
    refits = None
    if options.refits:
        rng = np.random.default_rng(options.seed)
        refits = resample_fits(problem, fit, options.refits, rng)

    networks = len(curves.unpruned)
    warnings = [*curves.warnings, *_list_doubts(problem, fit)]
    if plateau_assumed:
        warnings.append(
            "the points are too few to determine the plateau: it is taken to be chance, "
            f"{100 * options.chance:.1f} %"
        )
    if refits is not None and networks > 1 and not refits.of.startswith("networks"):
        warnings.append(
            f"{networks} networks are too few to resample: the band is from {refits.of}"
        )
    if no_back_test:  # the last one: a refusal to extrapolate quotes it
        warnings.append(no_back_test)
    return {
        "fit": fit,
        "limit": options.chance,
        "centre": centre,
        "images": options.images,
        "refits": refits,
        "folds": leave_out(problem, theta, "points"),
        "back_test": back_tested,
        "network_folds": leave_out(problem, theta, "networks") if networks > 2 else None,
        "networks": tuple(_describe_network(curves, k, responses[k]) for k in range(networks)),
        "points": list_points(curves, np.exp(value)),
        "warnings": tuple(warnings),
        "seed_effect": pool_seed_effect(curves),
    }


def list_points(curves: Curves, fitted: Floats) -> tuple[Point, ...]:
    """The points of a fit as documents, beside the fitted error of each, (n,)."""
    columns = zip(curves.network, curves.density, curves.error, fitted, strict=True)
    return tuple(
        Point(network=int(k), density=float(density), error=float(error), fitted=float(value))
        for k, density, error, value in columns
    )


def _limit_plateau(
    curves: Curves, exponents: tuple[bool, bool], options: Options
) -> tuple[tuple[float, float], bool]:
    """The limits of the plateau, and whether it is chance only because the points are too few."""
    lowest, highest = options.limit_plateau(float(curves.error.max()), float(curves.unpruned.max()))
    too_few = lowest < highest and len(curves) < 2 * (3 + sum(exponents))
    if too_few:
        lowest = highest
    if curves.unpruned.max() >= lowest:
        raise CurveError(
            f"an unpruned error of {curves.unpruned.max():g} is at the plateau, {lowest:g}: "
            "pruning cannot raise it"
        )
    return (lowest, highest), too_few


def _state_problem(
    curves: Curves,
    exponents: tuple[bool, bool],
    options: Options,
    plateau_limits: tuple[float, float],
    centre: tuple[float, ...],
) -> Problem:
    """The least-squares problem in theta = (ln gamma, ln p, ln plateau, phi, psi)."""
    lower, upper = (
        np.array(
            [
                *np.log([GAMMA[end], P[end], plateau_limits[end]]),
                EXPONENT[end] * exponents[0],  # 0 at both ends: not fitted
                EXPONENT[end] * exponents[1],
            ]
        )
        for end in (0, 1)
    )
    lowest, highest = plateau_limits
    log_plateau = np.log(lowest + 0.9 * (highest - lowest))
    exponent_starts = EXPONENT_STARTS if any(exponents) else EXPONENT_STARTS[:1]
    starts = np.array(
        [
            [np.log(gamma), np.log(p), log_plateau, phi, psi]
            for gamma, p, (phi, psi) in itertools.product(GAMMA_STARTS, P_STARTS, exponent_starts)
        ]
    )
    sizes = [
        np.log(values / middle)[curves.network]
        for values, middle in zip((curves.depth, curves.width), centre, strict=True)
    ]
    return Problem(
        form=PruningForm(),
        box=Box(lower, upper),
        starts=np.clip(starts, lower, upper),
        features=np.array([np.log(curves.density), *sizes]),
        curves=curves,
        unpruned_sd=options.unpruned_sd,
    )


def _list_doubts(problem: Problem, fit: Fit) -> list[str]:
    """Warnings about what the points do not determine."""
    curves = problem.curves
    doubts = []
    highest = float((curves.error / curves.unpruned[curves.network]).max())
    if highest < RISE:
        doubts.append(
            f"no error reaches {RISE:g} times the unpruned error (the highest is {highest:.2f} "
            "times): the law is for densities between those measured, and not extrapolated"
        )
    doubts += name_resting_parameters(problem, fit)
    if fit.condition is not None and fit.condition > ILL_CONDITIONED:
        doubts.append(
            "the parameters are not determined one by one (condition number "
            f"{fit.condition:.1e}): trust the curve, not them"
        )
    if fit.residual_sd > LOOSE:
        doubts.append(
            "the law does not describe these points: they scatter by "
            f"{100 * fit.residual_sd:.0f} % about it"
        )
    return doubts


def name_resting_parameters(problem: Problem, fit: Fit) -> list[str]:
    """A warning that names the parameters which ended at a limit; empty where none did."""
    resting = [problem.form.names[i] for i in problem.box.free if i not in fit.free]
    if not resting:
        return []
    names = ", ".join(name.removeprefix("log_") for name in resting)
    if len(resting) == 1:
        return [f"{names} at a limit of the fit: the points do not determine it"]
    return [f"{names} at limits of the fit: the points do not determine them"]


def _describe_network(curves: Curves, k: int, response: ArrayLike) -> NetworkCurve:
    densities = curves.density[curves.network == k]
    return NetworkCurve(
        depth=float(curves.depth[k]),
        width=float(curves.width[k]),
        unpruned_error=float(curves.unpruned[k]),
        points=len(densities),
        sparsest=float(densities.min()),
        densest=float(densities.max()),
        response=tuple(float(value) for value in np.atleast_1d(response)),
        trials=int((~np.isnan(curves.unpruned_cells[k])).sum()),
    )


def find_varying(curves: Curves) -> tuple[bool, bool]:
    """Whether the depths differ and whether the widths do, so that phi and psi can be fitted.

    Raises `InsufficientPointsError` where depths and widths only vary together.
    """
    logs = np.stack([np.ones(len(curves.depth)), np.log(curves.depth), np.log(curves.width)])
    varies = (bool(np.ptp(logs[1]) > 1e-9), bool(np.ptp(logs[2]) > 1e-9))
    if all(varies) and np.linalg.matrix_rank(logs, tol=1e-6) < 3:
        raise InsufficientPointsError(
            f"the depths and widths of {len(curves.depth)} networks vary together, so that their "
            "exponents cannot be distinguished: 1 more network, with another depth at the same "
            "width, would do"
        )
    return varies
