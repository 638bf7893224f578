"""The motivating question: which member of a family, pruned how much, has the fewest parameters at
a tolerated error?
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pruning.errors import CurveError, InsufficientPointsError, ParameterError, UnreachableError
from pruning.laws.bands import BandTarget
from pruning.laws.curves import SAME_POINT
from pruning.laws.documents import Forecast
from pruning.laws.joint import JointLaw
from pruning.schemas.base import Document
from pruning.schemas.report import Estimate

ROUND = 0.8
"""The fraction of the remaining weights that each round of the paper keeps."""
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
    """The error without pruning, measured or predicted by the dense law."""
    parameters: int
    prunable: int
    """The number of parameters that pruning may remove; the others remain."""
    unpruned_sd: float | None = None
    """Relative standard deviation of the unpruned error; `null` as in the fit."""
    seed_sd: float | None = None
    """Relative standard deviation by which the whole curve moves when the network is trained once
    more under another seed; `null` as in the law.
    """
    sparsest: float | None = None
    """The smallest density at which this network was measured; `null` for one that was not."""


class Answer(Document):
    """A candidate at the smallest density that the law allows it."""

    candidate: Candidate
    density: float
    parameters: float
    """The parameters that remain: parameters - (1 - density) prunable."""
    rounds: int
    """The number of rounds to the density, each keeping the same fraction (0.8 by default)."""
    error: Estimate
    extrapolated: bool
    notes: tuple[str, ...]


class Answers(Document):
    """The answers of a law, the fewest parameters first, and why other candidates have none."""

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
    of: BandTarget = "run",
    keep: float = ROUND,
) -> Answers:
    """Rank the candidates at an error of at most `error` by the parameters that remain.

    The density of each candidate is the closed form of the law. An answer keeps at least one weight
    and lies no further than REACH beyond the sparsest measured density: where the law allows less,
    that density is the answer, at a smaller error. The band is that of one more run, as the answer
    is one network that will be trained. Raises `UnreachableError` where every candidate's unpruned
    error is larger, `InsufficientPointsError` where the law cannot predict any candidate,
    `CurveError` for an error that a network with nothing left has.
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
    for candidate in candidates:
        if not 0 <= candidate.prunable <= candidate.parameters:
            raise ParameterError(
                f"candidates: {candidate.prunable} of {candidate.parameters} parameters are "
                "prunable"
            )
    answers = []
    refused: list[tuple[Candidate, str]] = []
    for candidate in candidates:
        try:
            answer = _answer_candidate(
                law, error, candidate=candidate, confidence=confidence, of=of, keep=keep
            )
        except (UnreachableError, InsufficientPointsError, CurveError) as refusal:
            refused.append((candidate, refusal.message))
        else:
            answers.append(answer)
    if not answers:
        closest = min(candidates, key=lambda candidate: candidate.unpruned_error)
        if closest.unpruned_error > error:
            raise UnreachableError(
                f"an error of {100 * error:.2f} % is below every candidate's unpruned error: the "
                f"closest is {100 * closest.unpruned_error:.2f} %, at depth {closest.depth:g} and "
                f"width {closest.width:g}"
            )
        raise InsufficientPointsError(
            f"no candidate has an answer; the first was refused: {refused[0][1]}"
        )
    answers.sort(key=lambda answer: answer.parameters)
    return Answers(error=error, best=answers[0], others=tuple(answers[1:]), refused=tuple(refused))


def count_rounds(density: float, keep: float) -> int:
    """The number of rounds down to the density, each keeping the fraction `keep` of the rest."""
    return math.ceil(math.log(density) / math.log(keep) - 1e-9)


def _answer_candidate(
    law: JointLaw,
    error: float,
    *,
    candidate: Candidate,
    confidence: float,
    of: BandTarget,
    keep: float,
) -> Answer:
    """The candidate at the smallest density whose error is at most `error`; raises as the law."""
    allowed = float(
        law.density_for(error, candidate.depth, candidate.width, candidate.unpruned_error)
    )
    if allowed >= 1.0:
        return Answer(
            candidate=candidate,
            density=1.0,
            parameters=candidate.parameters,
            rounds=0,
            error=Estimate(value=candidate.unpruned_error, unit="fraction"),
            extrapolated=False,
            notes=(UNPRUNED,),
        )
    sparsest_measured = min(network.sparsest for network in law.networks)
    least = max(sparsest_measured**REACH, 1 / max(1, candidate.prunable))
    density = max(allowed, least)
    (forecast,) = forecast_errors(law, candidate, [density], confidence, of)
    notes = forecast.notes
    if density > allowed:
        notes = (
            *notes,
            f"the law allows density {allowed:.2g}, far beyond what was measured, or with less "
            "than one weight left: held here, at a smaller error",
        )
    return Answer(
        candidate=candidate,
        density=density,
        parameters=candidate.parameters - (1 - density) * candidate.prunable,
        rounds=count_rounds(density, keep),
        error=forecast.error,
        extrapolated=forecast.extrapolated,
        notes=notes,
    )


def forecast_errors(
    law: JointLaw,
    candidate: Candidate,
    densities: Sequence[float],
    confidence: float,
    of: BandTarget = "run",
) -> tuple[Forecast, ...]:
    """The errors of a candidate at densities, with the law's band.

    Below the density to which the network itself was pruned, only the curves of other networks
    support the law: such an error is marked as an extrapolation.
    """
    forecasts = law.forecasts(
        candidate.depth,
        candidate.width,
        np.array(densities),
        candidate.unpruned_error,
        confidence=confidence,
        of=of,
        unpruned_sd=candidate.unpruned_sd,
        seed_sd=candidate.seed_sd,
    )
    return tuple(_mark_sparser(candidate, forecast) for forecast in forecasts)


def _mark_sparser(candidate: Candidate, forecast: Forecast) -> Forecast:
    """The forecast, marked as an extrapolation below the network's own densities."""
    sparsest = candidate.sparsest
    if sparsest is None or forecast.density >= sparsest * (1 - SAME_POINT):
        return forecast
    note = (
        f"this network was pruned to density {sparsest:.3g}: what lies below is predicted from the "
        "curves of others"
    )
    update = {"extrapolated": True, "notes": (*forecast.notes, note)}
    return forecast.model_copy(update=update)
