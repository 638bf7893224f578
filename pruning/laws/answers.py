"""The motivating question: which member of a family, pruned how much, has the fewest parameters at
a tolerated error?
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri

from pruning.errors import CurveError, InsufficientPointsError, ParameterError, UnreachableError
from pruning.laws.curves import SAME
from pruning.laws.documents import Forecast
from pruning.laws.joint import JointLaw
from pruning.laws.pruning_law import Of
from pruning.schemas.base import Document
from pruning.schemas.report import Estimate

ROUND = 0.8
"""What the paper keeps each round."""
REACH = 1.5
"""Answers go down to the sparsest measured density to this power: half as many rounds again as were
run.
"""
UNPRUNED = "only the network without pruning, with its own error"


class Candidate(Document):
    """A network that could be trained and pruned."""

    depth: float
    width: float
    unpruned_error: float
    """Measured, or from the dense law."""
    parameters: int
    prunable: int
    """How many of the parameters pruning may remove; the others remain."""
    unpruned_sd: float | None = None
    """Relative standard deviation of the unpruned error; `null` as in the fit."""
    seed_sd: float = 0.0
    """Relative standard deviation by which one more training, under another seed, lies off as a
    whole.
    """
    sparsest: float | None = None
    """The smallest density at which this network was measured; `null` for one that was not."""


class Answer(Document):
    """A candidate at the smallest density that the law allows it."""

    candidate: Candidate
    density: float
    parameters: float
    """Those that remain: parameters - (1 - density) prunable."""
    rounds: int
    """Rounds that reach the density, each keeping what was asked (0.8)."""
    error: Estimate
    extrapolated: bool
    notes: tuple[str, ...]


class Answers(Document):
    """What the law says, the fewest parameters first, and why other candidates have no answer."""

    error: float
    best: Answer
    others: tuple[Answer, ...]
    refused: tuple[tuple[Candidate, str], ...]


def find_smallest(
    law: JointLaw,
    error: float,
    candidates: Sequence[Candidate],
    *,
    confidence: float = 0.9,
    of: Of = "run",
    keep: float = ROUND,
) -> Answers:
    """The candidates at an error of at most `error`, by what remains of them: the closed-form
    density of each, enumerated.

    An answer keeps a weight at least, and lies no further than REACH beyond the sparsest density
    that was measured: where the law allows less, that density is the answer, at a smaller error.
    The band is that of one more run, as the answer is one network that will be trained. Raises
    `UnreachableError` where every candidate's unpruned error is larger, `InsufficientPointsError`
    where the law cannot tell of any, `CurveError` for an error that a network with nothing left
    has.
    """
    if error >= law.plateau:
        raise CurveError(
            f"error {error:g} is that of a network with nothing left, {law.plateau:.4g}: any "
            "density does"
        )
    if not candidates:
        raise ParameterError(
            "candidates: none; at least one network with its unpruned error and parameters"
        )
    for one in candidates:
        if not 0 <= one.prunable <= one.parameters:
            raise ParameterError(
                f"candidates: {one.prunable} of {one.parameters} parameters are prunable"
            )
    found, refused = [], list[tuple[Candidate, str]]()
    for one in candidates:
        try:
            found.append(_answer(law, error, one=one, confidence=confidence, of=of, keep=keep))
        except (UnreachableError, InsufficientPointsError, CurveError) as short:
            refused.append((one, short.message))
    if not found:
        closest = min(candidates, key=lambda one: one.unpruned_error)
        if closest.unpruned_error > error:
            raise UnreachableError(
                f"error {error:g} is below every candidate's unpruned error: the closest is "
                f"{closest.unpruned_error:g}, at depth {closest.depth:g} and width "
                f"{closest.width:g}"
            )
        raise InsufficientPointsError(
            f"no candidate has an answer; of the nearest: {refused[0][1]}"
        )
    found.sort(key=lambda one: one.parameters)
    return Answers(error=error, best=found[0], others=tuple(found[1:]), refused=tuple(refused))


def count_rounds(density: float, keep: float) -> int:
    """Rounds that keep so much of what remains, down to the density."""
    return math.ceil(math.log(density) / math.log(keep) - 1e-9)


def _answer(
    law: JointLaw, error: float, *, one: Candidate, confidence: float, of: Of, keep: float
) -> Answer:
    density = float(law.density_for(error, one.depth, one.width, one.unpruned_error))
    if density >= 1.0:
        return Answer(
            candidate=one,
            density=1.0,
            parameters=one.parameters,
            rounds=0,
            error=Estimate(value=one.unpruned_error),
            extrapolated=False,
            notes=(UNPRUNED,),
        )
    least = max(
        min(network.sparsest for network in law.networks) ** REACH, 1 / max(1, one.prunable)
    )
    allowed, density = density, max(density, least)
    (forecast,) = forecast_errors(law, one, [density], confidence, of)
    held = (
        (
            f"the law allows density {allowed:.2g}, far beyond what was measured, or with less "
            "than a weight left: held "
            "here, at a smaller error",
        )
        if density > allowed
        else ()
    )
    return Answer(
        candidate=one,
        density=density,
        parameters=one.parameters - (1 - density) * one.prunable,
        rounds=count_rounds(density, keep),
        error=forecast.error,
        extrapolated=forecast.extrapolated,
        notes=(*forecast.notes, *held),
    )


def forecast_errors(
    law: JointLaw, one: Candidate, densities: Sequence[float], confidence: float, of: Of = "run"
) -> tuple[Forecast, ...]:
    """The errors of a candidate at densities: the law's band, and in quadrature what another seed
    does to a whole curve.

    Below the density to which the network itself was pruned, only others' curves tell: that is
    said, as an extrapolation.
    """
    told = law.forecasts(
        one.depth,
        one.width,
        np.array(densities),
        one.unpruned_error,
        confidence=confidence,
        of=of,
        unpruned_sd=one.unpruned_sd,
    )
    return tuple(_of_candidate(law, one, each, confidence, of) for each in told)


def _of_candidate(
    law: JointLaw, one: Candidate, told: Forecast, confidence: float, of: Of
) -> Forecast:
    found, z = told.error, float(ndtri((1 + confidence) / 2)) * one.seed_sd * (of == "run")
    if found.low is not None and found.high is not None and z > 0:
        below, above = (
            float(np.hypot(np.log(limit), z))
            for limit in (found.value / found.low, found.high / found.value)
        )
        most = max(found.value, law.most(of))
        found = found.model_copy(
            update={
                "low": found.value * math.exp(-below),
                "high": min(most, found.value * math.exp(above)),
            }
        )
    density = told.density
    beyond = one.sparsest is not None and density < one.sparsest * (1 - SAME)
    notes = (
        (
            *told.notes,
            f"this network was pruned to density {one.sparsest:.3g}: what lies below is told by "
            "the curves of "
            "others",
        )
        if beyond
        else told.notes
    )
    return told.model_copy(
        update={"error": found, "extrapolated": told.extrapolated or beyond, "notes": notes}
    )
