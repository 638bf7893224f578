"""The motivating question put to a family's law, and the networks it chooses held against what they
measure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pruning.errors import SecateurError
from pruning.family.measurements import FamilyMeasurements, fit_unpruned_plane
from pruning.family.members import Member, Run, member_densities, sparsity_of
from pruning.family.sizes import Size
from pruning.laws.answers import (
    Answer,
    Answers,
    Candidate,
    count_rounds,
    find_smallest,
    forecast_errors,
)
from pruning.laws.dense import DenseLaw
from pruning.laws.joint import JointLaw
from pruning.schemas.family import FamilySpec
from pruning.schemas.family_report import FamilyAnswer, MeasuredNetwork
from pruning.schemas.report import Estimate

ABOVE = 1.25
"""The tolerated error where none is given, in units of the least unpruned one."""
SAME = 1e-3
"""Densities that are relatively this near are one."""
TWO_SIGMA = 0.9545
"""A band of this confidence has four standard deviations."""
DIGITS = 6
"""Significant digits of the density to which an answer is pruned."""


def list_tolerated_errors(spec: FamilySpec, points: FamilyMeasurements) -> tuple[float, ...]:
    """The errors that are asked for."""
    if spec.max_error:
        return spec.max_error
    most = 0.5 * (1 - 1 / points.classes + float(points.unpruned.min()))
    return (round(min(ABOVE * float(points.unpruned.min()), most), 4),)


def list_candidates(
    spec: FamilySpec,
    points: FamilyMeasurements,
    sizes: Sequence[Size],
    images: int | None,
    dense: DenseLaw | None,
) -> tuple[list[Candidate], list[str]]:
    """The networks that may be the answer, at the largest fraction of the training images, and what
    to know of them.

    A measured network has its own unpruned error, the mean over its seeds. That of another is the
    dense law's for `images`; without a dense law, that of the plane of ln error over ln depth, ln
    width and ln fraction. Either with its deviation.
    """
    grid = spec.candidates or spec.members
    fraction = max(one[2] for one in points.networks)
    guess = fit_unpruned_plane(points)
    found, unmeasured, left = [], 0, 0
    for size in sizes:
        if size.depth not in grid.depths or size.width not in grid.widths:
            continue
        network, deviation, spread, sparsest = (
            (size.depth, size.width, fraction),
            None,
            points.seed_sd,
            None,
        )
        if network in points.networks:
            unpruned, sparsest = (
                points.unpruned_of(network),
                float(points.density[points.of(network.__eq__)].min()),
            )
            spread *= math.sqrt(1 + 1 / points.trials_of(network))
        else:
            told = _dense(dense, size.parameters, images)
            if told is None and guess.deviation is None:
                left += 1
                continue
            unmeasured += 1
            unpruned, deviation = told or (guess.at(network), guess.deviation)
        found.append(
            Candidate(
                depth=size.depth,
                width=size.width,
                unpruned_error=unpruned,
                parameters=size.parameters,
                prunable=size.prunable,
                unpruned_sd=deviation,
                seed_sd=spread,
                sparsest=sparsest,
            )
        )
    remarks = []
    if unmeasured:
        how = (
            "the law of the unpruned errors"
            if dense is not None
            else "a regression on ln depth, ln width and ln fraction"
        )
        remarks.append(
            f"{unmeasured} of the {len(found)} candidates were not run: their unpruned errors "
            f"are by {how}"
        )
    if left:
        remarks.append(
            f"{left} networks are no candidates: they were not run, and those that were are too "
            "few to tell "
            "their unpruned errors"
        )
    return found, remarks


def _dense(law: DenseLaw | None, parameters: int, images: int | None) -> tuple[float, float] | None:
    """The unpruned error by the dense law, where it tells, and its deviation: wider beyond the
    sizes that were fitted.
    """
    if law is None or images is None:
        return None
    try:
        (told,) = law.forecasts(parameters, images, confidence=TWO_SIGMA, of="run")
    except SecateurError:
        return None
    assert told.error.low is not None
    assert told.error.high is not None
    return told.error.value, max(law.sigma, math.log(told.error.high / told.error.low) / 4)


def answer_tolerated(
    spec: FamilySpec, law: JointLaw, error: float, networks: Sequence[Candidate]
) -> Answers | str:
    """The answer to one tolerated error, or why there is none."""
    try:
        return find_smallest(law, error, networks, confidence=spec.confidence, keep=spec.keep)
    except SecateurError as short:
        return f"{short.code}: {short.message}"


def choose_verification(spec: FamilySpec, error: float, best: Answer, fraction: float) -> Member:
    """The answer as a network to be trained and pruned to its density, under a seed that no member
    has.
    """
    return Member(
        role="answer",
        depth=best.candidate.depth,
        width=best.candidate.width,
        fraction=fraction,
        seed=max(spec.members.seeds) + 1,
        rounds=max(1, count_rounds(best.density, spec.keep)),
        density=float(f"{best.density:.{DIGITS}g}"),
        max_error=error,
    )


def report_answer(
    spec: FamilySpec, law: JointLaw | None, error: float, asked: Answers | str, run: Run | None
) -> FamilyAnswer:
    """One answer of the report; measured where its network has been trained."""
    if isinstance(asked, str) or law is None:
        return FamilyAnswer(max_error=error, refused=str(asked))
    best, notes = asked.best, asked.best.notes
    if run is not None:
        trained = [
            one
            for one in (asked.best, *asked.others)
            if (one.candidate.depth, one.candidate.width) == (run.member.depth, run.member.width)
        ]
        if trained and abs(trained[0].density / run.member.density - 1) > SAME:
            notes = (
                *notes,
                "the law has moved since this network was trained: it would now keep "
                f"{trained[0].density:.3g}",
            )
        if not trained or trained[0] is not best:
            notes = (
                *notes,
                "the law has moved since this network was trained: it would now choose depth "
                f"{best.candidate.depth:g} and width {best.candidate.width:g}",
            )
        if trained:
            best = _at(spec, law, trained[0], run.member.density)
    found = FamilyAnswer(
        max_error=error,
        depth=best.candidate.depth,
        width=best.candidate.width,
        density=best.density,
        rounds=best.rounds,
        parameters=best.parameters,
        unpruned_parameters=best.candidate.parameters,
        predicted=best.error,
        extrapolated=best.extrapolated,
        notes=notes,
    )
    return found if run is None else found.model_copy(update=_measured(run, error, best.error))


def find_smallest_run(
    spec: FamilySpec, runs: Sequence[Run], error: float
) -> MeasuredNetwork | None:
    """Of everything that was run, members and answers, what measured at most `error` with the
    fewest parameters.
    """
    found = [
        MeasuredNetwork(
            job=run.job,
            depth=run.member.depth,
            width=run.member.width,
            fraction=run.member.fraction,
            seed=run.member.seed,
            density=density,
            sparsity=_target(spec, run.member, density),
            error=measured,
            parameters=round(run.curve.parameters - (1 - density) * run.curve.prunable),
        )
        for run in runs
        if run.curve is not None and run.status == "succeeded"
        for density, measured in zip(run.curve.densities, run.curve.errors, strict=True)
        if measured <= error
    ]
    return min(found, key=lambda one: (one.parameters, one.error), default=None)


def _target(spec: FamilySpec, member: Member, density: float) -> float:
    """The sparsity of the round that ended at `density`, which is off by less than a weight."""
    return sparsity_of(
        min(
            (*member_densities(spec, member.rounds - 1), member.density),
            key=lambda one: abs(math.log(one / density)) if density > 0 else one,
        )
    )


def _at(spec: FamilySpec, law: JointLaw, answer: Answer, density: float) -> Answer:
    """The answer's network at the density at which it was trained."""
    one = answer.candidate
    (told,) = forecast_errors(law, one, [density], spec.confidence)
    return answer.model_copy(
        update={
            "density": density,
            "rounds": count_rounds(density, spec.keep),
            "error": told.error,
            "extrapolated": told.extrapolated,
            "parameters": one.parameters - (1 - density) * one.prunable,
        }
    )


def _measured(run: Run, error: float, predicted: Estimate) -> Mapping[str, object]:
    final = run.curve.final if run.curve is not None and run.status == "succeeded" else None
    update: dict[str, object] = {"job": run.job, "status": run.status}
    if final is not None:
        got = Estimate.model_validate(final["error"])
        low, high = predicted.low, predicted.high
        update |= {
            "measured": got,
            "measured_parameters": final["parameters"],
            "checkpoint": final["id"],
            "meets": got.value <= error,
            "within_band": None if low is None or high is None else low <= got.value <= high,
        }
    return update
