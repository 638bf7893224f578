"""The motivating question put to a family's law, and the chosen networks compared with what they
measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pruning import wording
from pruning.errors import SecateurError
from pruning.family.measurements import FamilyMeasurements, Plane, fit_unpruned_plane
from pruning.family.members import Member, Run
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
from pruning.schemas.family_report import FamilyAnswer
from pruning.schemas.report import Estimate

ABOVE = 1.25
"""The default of the tolerated error, in units of the least unpruned one."""
SAME_DENSITY = 1e-3
"""Densities that differ by less, relatively, count as one."""
TWO_SIGMA = 0.9545
"""A band of this confidence has four standard deviations."""
DIGITS = 6
"""Significant digits of the density to which an answer is pruned."""


def list_tolerated_errors(spec: FamilySpec, points: FamilyMeasurements) -> tuple[float, ...]:
    """The tolerated errors of the spec, or else one from the measured errors."""
    if spec.max_error:
        return spec.max_error
    least = float(points.unpruned.min())
    halfway_to_chance = 0.5 * (points.guessing_error + least)
    return (round(min(ABOVE * least, halfway_to_chance), 4),)


def list_candidates(
    spec: FamilySpec,
    points: FamilyMeasurements,
    sizes: Sequence[Size],
    *,
    images: int | None,
    dense: DenseLaw | None,
    seed_sd: float,
) -> tuple[list[Candidate], list[str]]:
    """The networks that may be the answer, at the largest fraction of the training images, and
    remarks.

    A measured network has its own unpruned error, the mean over its seeds. That of another is
    predicted by the dense law for `images`, or without a dense law by the plane of ln error over ln
    depth, ln width and ln fraction, with its deviation. `seed_sd` is what a seed does to a curve.
    """
    grid = spec.candidates or spec.members
    plane = fit_unpruned_plane(points)
    candidates, predicted, without_error = [], 0, 0
    for size in sizes:
        if size.depth not in grid.depths or size.width not in grid.widths:
            continue
        candidate = _read_measured(points, size, seed_sd)
        if candidate is None:
            by_law = _predict_dense(dense, size, images)
            candidate = _predict_candidate(points, size, by_law, plane, seed_sd)
            if candidate is None:
                without_error += 1
                continue
            predicted += 1
        candidates.append(candidate)
    remarks = []
    if predicted:
        source = "a regression on ln depth, ln width and ln fraction"
        if dense is not None:
            source = "the law of the unpruned errors"
        remarks.append(
            f"{predicted} of the {len(candidates)} candidates were not run: their unpruned errors "
            f"are by {source}"
        )
    if without_error:
        remarks.append(
            "Not among the candidates, as they were not run and those that were are too few to "
            f"predict their unpruned errors: {wording.count_of(without_error, 'network')}"
        )
    return candidates, remarks


def _read_measured(points: FamilyMeasurements, size: Size, seed_sd: float) -> Candidate | None:
    """The candidate with its measured unpruned error; None where it was not run."""
    network = (size.depth, size.width, _find_fraction(points))
    if network not in points.networks:
        return None
    return Candidate(
        depth=size.depth,
        width=size.width,
        unpruned_error=points.average_unpruned(network),
        parameters=size.parameters,
        prunable=size.prunable,
        # The deviation of one more training from a mean over trials.
        seed_sd=_deviate_run(points, seed_sd * math.sqrt(1 + 1 / points.count_trials(network))),
        sparsest=float(points.density[points.mask_networks(network.__eq__)].min()),
    )


def _predict_candidate(
    points: FamilyMeasurements,
    size: Size,
    by_law: tuple[float, float] | None,
    plane: Plane,
    seed_sd: float,
) -> Candidate | None:
    """The candidate with its predicted unpruned error; None where there is no prediction."""
    if by_law is not None:
        unpruned, deviation = by_law
    elif plane.deviation is not None:
        network = (size.depth, size.width, _find_fraction(points))
        unpruned, deviation = plane.predict(network), plane.deviation
    else:
        return None
    return Candidate(
        depth=size.depth,
        width=size.width,
        unpruned_error=unpruned,
        parameters=size.parameters,
        prunable=size.prunable,
        unpruned_sd=deviation,
        seed_sd=_deviate_run(points, seed_sd),
    )


def _deviate_run(points: FamilyMeasurements, seed_sd: float) -> float:
    """The relative standard deviation of one more run as a whole: of its seed and, where the law is
    of validation images and the run is measured on test images, of the validation images.
    """
    if points.on == "test":
        return seed_sd
    error = float(points.unpruned.min())
    return math.hypot(seed_sd, math.sqrt((1 - error) / (error * points.images.max())))


def _find_fraction(points: FamilyMeasurements) -> float:
    """The largest measured fraction of the training images."""
    return max(network[2] for network in points.networks)


def _predict_dense(
    law: DenseLaw | None, size: Size, images: int | None
) -> tuple[float, float] | None:
    """The unpruned error by the dense law and its deviation, wider beyond the fitted sizes; None
    where the law refuses.
    """
    if law is None or images is None:
        return None
    try:
        (forecast,) = law.forecasts(size.parameters, images, confidence=TWO_SIGMA, of="run")
    except SecateurError:
        return None
    error = forecast.error
    assert error.low is not None
    assert error.high is not None
    return error.value, max(law.sigma, math.log(error.high / error.low) / 4)


def answer_tolerated(
    spec: FamilySpec, law: JointLaw, error: float, networks: Sequence[Candidate]
) -> Answers | str:
    """The answer to one tolerated error, or the refusal as text."""
    try:
        return find_smallest(law, error, networks, confidence=spec.confidence, keep=spec.keep)
    except SecateurError as refusal:
        return f"{refusal.code}: {refusal.message}"


def choose_verification(spec: FamilySpec, error: float, best: Answer, fraction: float) -> Member:
    """The answer as a network to be trained and pruned, under a seed that no member has."""
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
    spec: FamilySpec,
    law: JointLaw | None,
    error: float,
    law_answers: Answers | str,
    run: Run | None,
) -> FamilyAnswer:
    """Report an answer, with the measured results where its network has been trained."""
    if isinstance(law_answers, str) or law is None:
        return FamilyAnswer(max_error=error, refused=str(law_answers))
    answer, notes = law_answers.best, law_answers.best.notes
    if run is not None:
        trained = _find_trained(law_answers, run.member)
        notes = (*notes, *_note_moves(law_answers.best, trained, run.member))
        if trained is not None:
            answer = _move_answer(spec, law, trained, run.member.density)
    row = FamilyAnswer(
        max_error=error,
        depth=answer.candidate.depth,
        width=answer.candidate.width,
        density=answer.density,
        rounds=answer.rounds,
        parameters=answer.parameters,
        unpruned_parameters=answer.candidate.parameters,
        predicted=answer.error,
        extrapolated=answer.extrapolated,
        notes=notes,
    )
    if run is None:
        return row
    return row.model_copy(update=_compare_measured(run, error, answer.error))


def _find_trained(law_answers: Answers, member: Member) -> Answer | None:
    """The law's present answer for the network that was trained."""
    for answer in (law_answers.best, *law_answers.others):
        if (answer.candidate.depth, answer.candidate.width) == (member.depth, member.width):
            return answer
    return None


def _note_moves(best: Answer, trained: Answer | None, member: Member) -> list[str]:
    """Notes on how the law's answer differs from the network that was trained for it."""
    notes = []
    if trained is not None and abs(trained.density / member.density - 1) > SAME_DENSITY:
        notes.append(
            "the law has moved since this network was trained: it would now keep "
            f"{trained.density:.3g}"
        )
    if trained is not best:
        notes.append(
            "the law has moved since this network was trained: it would now choose depth "
            f"{best.candidate.depth:g} and width {best.candidate.width:g}"
        )
    return notes


def _move_answer(spec: FamilySpec, law: JointLaw, answer: Answer, density: float) -> Answer:
    """The answer's network at the density at which it was trained."""
    candidate = answer.candidate
    (forecast,) = forecast_errors(law, candidate, [density], spec.confidence)
    return answer.model_copy(
        update={
            "density": density,
            "rounds": count_rounds(density, spec.keep),
            "error": forecast.error,
            "extrapolated": forecast.extrapolated,
            "parameters": candidate.parameters - (1 - density) * candidate.prunable,
        }
    )


def _compare_measured(run: Run, error: float, predicted: Estimate) -> Mapping[str, object]:
    """The fields of the report about the job, and about its final network once it succeeded."""
    fields: dict[str, object] = {"job": run.job, "status": run.status}
    final = run.curve.final if run.curve is not None and run.status == "succeeded" else None
    if final is None:
        return fields
    measured = Estimate.model_validate(final["error"])
    within_band = None
    if predicted.low is not None and predicted.high is not None:
        within_band = predicted.low <= measured.value <= predicted.high
    return fields | {
        "measured": measured,
        "measured_parameters": final["parameters"],
        "checkpoint": final["id"],
        "meets": measured.value <= error,
        "within_band": within_band,
    }
