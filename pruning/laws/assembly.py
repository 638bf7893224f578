"""From measured points to a pruning law: which parameters are fitted, between which limits, from
which starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pruning.errors import CurveError, InsufficientPointsError, ParameterError
from pruning.laws.curves import ILL_CONDITIONED, OVER, RISE, Curves
from pruning.laws.documents import NetworkCurve, Point
from pruning.laws.fitting import Problem, back_test, fit_curves, leave_out, resample_fits
from pruning.laws.forms import PruningForm
from pruning.laws.solver import Box

GAMMA, P, EXPONENT = (0.02, 20.0), (1e-8, 1.0), (-6.0, 6.0)
GAMMA_STARTS, P_STARTS, EXPONENT_STARTS = (
    (0.2, 0.5, 1.0, 2.0),
    (1e-4, 1e-3, 1e-2, 0.05),
    ((0.0, 0.0), (0.8, 1.5)),
)
LOOSE = 0.10
"""A law whose points are this far off on average does not describe them."""
MANY_REFITS = 10_000


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to fit; the same for every law of pruned networks."""

    classes: int | None
    plateau: float | None
    images: int | None
    unpruned_sd: float | None
    refits: int
    seed: int

    def __post_init__(self) -> None:
        if self.classes is not None and self.classes < 2:
            raise ParameterError(
                f"classes: {self.classes}; at least 2, or None where chance is not known"
            )
        if self.plateau is not None and not 0 < self.plateau <= self.chance:
            raise ParameterError(
                f"plateau: {self.plateau:g}; above 0 and at most chance, {self.chance:g}"
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
        """The error of guessing, 1 - 1/classes; 1 where the classes are not known."""
        return 1.0 if self.classes is None else 1.0 - 1.0 / self.classes

    def plateaus(self, highest: float, unpruned: float) -> tuple[float, float]:
        """The limits of the plateau: chance (or as given), and free only where an error is above
        half of it.

        Noise lifts the highest of many errors above the plateau that they are on, so that it may be
        a little below that.
        """
        if self.plateau is not None:
            if highest > self.plateau * (1 + OVER):
                raise CurveError(
                    f"an error of {highest:g} is above the plateau that was fixed, {self.plateau:g}"
                )
            return self.plateau, self.plateau
        if highest <= self.chance / 2:
            return self.chance, self.chance
        above = min(
            1.01 * unpruned, (unpruned + self.chance) / 2
        )  # of networks that pruning only helped, too
        return min(self.chance, max(highest / (1 + OVER), above)), self.chance


def assemble_fields(
    curves: Curves, exponents: tuple[bool, bool], options: Options
) -> dict[str, Any]:
    """The fields of a pruning law; `exponents` says whether phi and psi are fitted.

    Depth and width are taken in units of their geometric means, so that p is that of a typical
    network and hardly moves with the exponents. Raises `CurveError` and `InsufficientPointsError`.
    """
    top = options.plateaus(float(curves.error.max()), float(curves.unpruned.max()))
    poor = top[0] < top[1] and len(curves) < 2 * (3 + sum(exponents))
    if poor:
        top = (top[1], top[1])
    if curves.unpruned.max() >= top[0]:
        raise CurveError(
            f"an unpruned error of {curves.unpruned.max():g} is at the plateau, {top[0]:g}: "
            "pruning cannot "
            "raise it"
        )
    centre = tuple(float(np.exp(np.log(sizes).mean())) for sizes in (curves.depth, curves.width))
    sizes = [
        np.log(values / middle)[curves.network]
        for values, middle in zip((curves.depth, curves.width), centre, strict=True)
    ]
    lower, upper = (
        np.array(
            [*np.log([GAMMA[end], P[end], top[end]]), *(EXPONENT[end] * one for one in exponents)]
        )
        for end in (0, 1)
    )
    starts = np.array(
        [
            [np.log(gamma), np.log(p), np.log(top[0] + 0.9 * (top[1] - top[0])), phi, psi]
            for gamma in GAMMA_STARTS
            for p in P_STARTS
            for phi, psi in (EXPONENT_STARTS if any(exponents) else EXPONENT_STARTS[:1])
        ]
    )
    problem = Problem(
        form=PruningForm(),
        box=Box(lower, upper),
        starts=np.clip(starts, lower, upper),
        features=np.array([np.log(curves.density), *sizes]),
        curves=curves,
        unpruned_sd=options.unpruned_sd,
    )
    problem.enough()
    found, responses = fit_curves(problem)
    theta, rows = np.array(found.theta), problem.rows
    value = problem.form.evaluate(theta[None], rows.features, rows.log_unpruned)[0][0]
    tested, why = back_test(problem)
    rng = np.random.default_rng(options.seed)
    refits = resample_fits(problem, found, options.refits, rng) if options.refits else None
    networks = len(curves.unpruned)
    warnings = [*curves.warnings, *_doubts(problem, found.free, found.condition, found.residual_sd)]
    if poor:
        warnings.append(
            "the points are too few to tell the plateau: it is taken to be chance, "
            f"{options.chance:g}"
        )
    if refits is not None and networks > 1 and not refits.of.startswith("networks"):
        warnings.append(
            f"{networks} networks are too few to resample: the band is from {refits.of}"
        )
    return {
        "fit": found,
        "limit": options.chance,
        "centre": centre,
        "images": options.images,
        "refits": refits,
        "folds": leave_out(problem, theta, "points"),
        "back_test": tested,
        "network_folds": leave_out(problem, theta, "networks") if networks > 2 else None,
        "networks": tuple(_network(curves, k, responses[k]) for k in range(networks)),
        "points": tuple(
            Point(network=int(k), density=float(d), error=float(e), fitted=float(f))
            for k, d, e, f in zip(
                curves.network, curves.density, curves.error, np.exp(value), strict=True
            )
        ),
        "warnings": (*warnings, *([why] if why else [])),
    }


def _doubts(
    problem: Problem, free: tuple[int, ...], condition: float | None, spread: float
) -> list[str]:
    found, curves = [], problem.curves
    highest = float((curves.error / curves.unpruned[curves.network]).max())
    if highest < RISE:
        found.append(
            f"no error reaches {RISE:g} times the unpruned error (the highest is {highest:.2f} "
            "times): the law is "
            "for densities between those measured, and not extrapolated"
        )
    resting = [problem.form.names[i] for i in problem.box.free if i not in free]
    if resting:
        found.append(f"{', '.join(resting)} at a limit of the fit: the points do not determine it")
    if condition is not None and condition > ILL_CONDITIONED:
        found.append(
            f"the parameters are not determined one by one (condition number {condition:.1e}): "
            "trust the curve, "
            "not them"
        )
    if spread > LOOSE:
        found.append(
            f"the law does not describe these points: they scatter by {spread:.0%} about it"
        )
    return found


def _network(curves: Curves, k: int, response: ArrayLike) -> NetworkCurve:
    mine = curves.density[curves.network == k]
    return NetworkCurve(
        depth=float(curves.depth[k]),
        width=float(curves.width[k]),
        unpruned_error=float(curves.unpruned[k]),
        points=len(mine),
        sparsest=float(mine.min()),
        densest=float(mine.max()),
        response=tuple(float(one) for one in np.atleast_1d(response)),
    )


def check_independent(curves: Curves) -> tuple[bool, bool]:
    """Whether depths and widths differ, so that phi and psi can be told; refuses where they only
    vary together.
    """
    logs = np.stack([np.ones(len(curves.depth)), np.log(curves.depth), np.log(curves.width)])
    varies = (bool(np.ptp(logs[1]) > 1e-9), bool(np.ptp(logs[2]) > 1e-9))
    if all(varies) and np.linalg.matrix_rank(logs, tol=1e-6) < 3:
        raise InsufficientPointsError(
            f"the depths and widths of {len(curves.depth)} networks vary together, so that their "
            "exponents cannot be told "
            "apart: 1 more network, with another depth at the same width, would do"
        )
    return varies
