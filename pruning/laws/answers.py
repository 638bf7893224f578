"""The motivating question: which member of a family, pruned how much, has the fewest parameters at a tolerated error?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pruning.errors import CurveError, InsufficientPointsError, ParameterError, UnreachableError
from pruning.laws.joint import JointLaw
from pruning.laws.pruned import Of
from pruning.schemas.base import Document
from pruning.schemas.report import Estimate

ROUND = 0.8
"""What iterative pruning keeps each round."""


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


class Answer(Document):
    """A candidate at the smallest density that the law allows it."""

    candidate: Candidate
    density: float
    parameters: float
    """Those that remain: parameters - (1 - density) prunable."""
    rounds: int
    """Rounds of keeping 0.8 that reach the density."""
    error: Estimate
    extrapolated: bool
    notes: tuple[str, ...]


class Answers(Document):
    """What the law says, the fewest parameters first, and why other candidates have no answer."""

    error: float
    best: Answer
    others: tuple[Answer, ...]
    refused: tuple[tuple[Candidate, str], ...]


def smallest(law: JointLaw, error: float, candidates: Sequence[Candidate], *, confidence: float = 0.9,
             of: Of = "run") -> Answers:
    """The candidates at an error of at most `error`, by what remains of them: the closed-form density of each, enumerated.

    The band is that of one more run, as the answer is one network that will be trained. Raises `UnreachableError` where
    every candidate's unpruned error is larger, `InsufficientPointsError` where the law cannot tell of any.
    """
    if not candidates:
        raise ParameterError("candidates: none; at least one network with its unpruned error and parameters")
    for one in candidates:
        if not 0 <= one.prunable <= one.parameters:
            raise ParameterError(f"candidates: {one.prunable} of {one.parameters} parameters are prunable")
    found, refused = [], list[tuple[Candidate, str]]()
    for one in candidates:
        try:
            found.append(_answer(law, error, one, confidence, of))
        except (UnreachableError, InsufficientPointsError, CurveError) as short:
            refused.append((one, short.message))
    if not found:
        closest = min(candidates, key=lambda one: one.unpruned_error)
        if closest.unpruned_error > error:
            raise UnreachableError(f"error {error:g} is below every candidate's unpruned error: the closest is "
                                   f"{closest.unpruned_error:g}, at depth {closest.depth:g} and width {closest.width:g}")
        raise InsufficientPointsError(f"no candidate has an answer; of the nearest: {refused[0][1]}")
    found.sort(key=lambda one: one.parameters)
    return Answers(error=error, best=found[0], others=tuple(found[1:]), refused=tuple(refused))


def _answer(law: JointLaw, error: float, one: Candidate, confidence: float, of: Of) -> Answer:
    density = float(law.density_for(error, one.depth, one.width, one.unpruned_error))
    if density == 0.0:
        raise CurveError(f"error {error:g} is that of a network with nothing left: any density does")
    if density >= 1.0:
        return Answer(candidate=one, density=1.0, parameters=one.parameters, rounds=0,
                      error=Estimate(value=one.unpruned_error), extrapolated=False, notes=(UNPRUNED,))
    (forecast,) = law.forecasts(one.depth, one.width, density, one.unpruned_error, confidence=confidence, of=of,
                                unpruned_sd=one.unpruned_sd)
    return Answer(candidate=one, density=density, parameters=one.parameters - (1 - density) * one.prunable,
                  rounds=math.ceil(math.log(density) / math.log(ROUND) - 1e-9), error=forecast.error,
                  extrapolated=forecast.extrapolated, notes=forecast.notes)
