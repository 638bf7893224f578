"""The report of a family: complete, or partial while its members run."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from pruning import wording
from pruning.errors import SecateurError
from pruning.family.answers_section import describe_smallest_run
from pruning.family.confirmation import (
    TEST_CHOSE,
    build_gates,
    describe_deciding,
)
from pruning.family.sections import build_sections
from pruning.family.sizes import Size
from pruning.family.turn import State
from pruning.measurement.needed_images import describe_proving_images
from pruning.schemas.family_report import (
    CandidateRow,
    FamilyAnswer,
    FamilyRecommendation,
    FamilyReport,
    MemberRow,
)
from pruning.schemas.report import Failure


def build_report(
    state: State,
    job_id: str,
    spec: dict[str, Any],
    data: str,
    *,
    failure: SecateurError | None = None,
) -> FamilyReport:
    """Build the report of the present state; `spec` as submitted, `data` the dataset's name."""
    failures = [
        Failure(
            name=run.member.key,
            code=f"member_{run.status}",
            message=run.error or f"job {run.job} was {run.status}",
        )
        for run in state.runs
        if run.status in ("failed", "cancelled")
    ]
    warnings = []
    if failure is not None:
        failures.insert(0, Failure(name="scaling_law", code=failure.code, message=failure.message))
    elif state.refusal is not None:
        warnings.append(f"no joint law yet: {state.refusal}")
    if state.law is not None:
        warnings += [f"joint law: {warning}" for warning in state.law.warnings]
    if state.points is not None and state.points.on == "test":
        warnings.append(state.points.warnings[-1])
    classes = next((run.curve.classes for run in state.runs if run.curve is not None), None)
    return FamilyReport(
        job_id=job_id,
        spec=spec,
        architecture=state.spec.model.architecture,
        data=data,
        classes=classes,
        members=tuple(_list_member_rows(state)),
        law=None if state.law is None else state.law.model_dump(mode="json"),
        dense_law=None if state.dense is None else state.dense.model_dump(mode="json"),
        answers=state.answers,
        candidates=tuple(_list_candidate_rows(state)),
        sections=build_sections(state),
        recommendation=_recommend(state.answers, state.spec.method),
        gates=build_gates(state.answers),
        failures=tuple(failures),
        warnings=tuple(warnings),
        partial=not state.finished,
        secateur=importlib.metadata.version("secateur"),
    )


def _list_candidate_rows(state: State) -> list[CandidateRow]:
    rows = []
    for candidate in state.candidates:
        size = _find_size(state, candidate.depth, candidate.width)
        rows.append(CandidateRow(**candidate.model_dump(), kwargs=size.kwargs))
    return rows


def _find_size(state: State, depth: float, width: float) -> Size:
    return next(size for size in state.sizes if (size.depth, size.width) == (depth, width))


def _list_member_rows(state: State) -> list[MemberRow]:
    """The rows of all members of the spec; those that were not run are `planned`."""
    runs = {run.member.key: run for run in state.runs if run.member.role == "member"}
    rows = []
    for planned in state.members:
        run = runs.get(planned.key)
        member = planned if run is None else run.member
        size = _find_size(state, member.depth, member.width)
        row = MemberRow(
            job=None if run is None else run.job,
            status="planned" if run is None else run.status,
            depth=member.depth,
            width=member.width,
            fraction=member.fraction,
            seed=member.seed,
            rounds=member.rounds,
            remark="" if run is None else run.error,
            parameters=size.parameters,
            prunable=size.prunable,
        )
        if run is not None and run.curve is not None and run.status == "succeeded":
            row = row.model_copy(
                update={
                    "images": run.curve.images,
                    "unpruned_error": run.curve.unpruned_error,
                    "densities": run.curve.densities,
                    "errors": run.curve.errors,
                }
            )
        rows.append(row)
    return rows


def _recommend(answers: tuple[FamilyAnswer, ...], method: str) -> FamilyRecommendation:
    """The network with the fewest parameters among those that were trained for real and measured at
    most their tolerated error: one that is proven to keep to it, if there is one.
    """
    trained = [
        (answer, answer.measured)
        for answer in answers
        if answer.checkpoint is not None and answer.measured is not None
    ]
    for outcome, verdict in (("passed", "ship"), ("undecided", "undecided")):
        kept = [(answer, measured) for answer, measured in trained if answer.outcome == outcome]
        if not kept:
            continue
        best, measured = min(kept, key=lambda pair: pair[0].measured_parameters or 0)
        return FamilyRecommendation(
            job=best.job,
            checkpoint=best.checkpoint,
            verdict="ship" if verdict == "ship" else "undecided",
            reason=(
                f"Depth {best.depth:g} and width {best.width:g}, pruned to a density of "
                f"{best.density:.3g}, keep {wording.count(best.measured_parameters or 0)} "
                "parameters at a measured test error of "
                f"{wording.percent_with_interval(measured, 2)}; "
                f"{wording.percent(best.max_error, 2)} were tolerated{_say_proof(best)}."
            ),
        )
    if trained:
        closest, measured = min(trained, key=lambda pair: pair[1].value - pair[0].max_error)
        reason = (
            "Of the networks that the law chose and that were trained, none measured at most its "
            f"tolerated error: the closest measured {wording.percent_with_interval(measured, 2)} "
            f"where {wording.percent(closest.max_error, 2)} were tolerated. The law aims at the "
            "tolerated error itself, so that about half of such networks measure above it: ask for "
            "a lower one."
        )
        if closest.smallest_run is not None:
            reason = f"{reason} {describe_smallest_run(closest.smallest_run, method)}"
        return FamilyRecommendation(job=None, checkpoint=None, verdict="do_not_ship", reason=reason)
    return FamilyRecommendation(
        job=None, checkpoint=None, verdict="undecided", reason=_explain_no_network(answers)
    )


def _say_proof(answer: FamilyAnswer) -> str:
    """The end of the sentence: whether the test images prove the error."""
    if answer.outcome == "passed":
        return ", and the test images prove it at 95 %"
    if answer.chosen_on == "test":
        return f"; {TEST_CHOSE}{describe_deciding(answer)}"
    if answer.needed is None:
        return ", which the test images do not prove, nor would any number of them in reach"
    return f", which the test images do not prove: {describe_proving_images(answer.needed)}"


def _explain_no_network(answers: tuple[FamilyAnswer, ...]) -> str:
    """The reason why no network was trained to the end."""
    refusals = {answer.refused for answer in answers if answer.refused}
    for answer in answers:
        if answer.density == 1.0:
            refusals.add(f"{wording.percent(answer.max_error, 2)} of error allow no pruning")
    if refusals:
        return f"No network is recommended: {'; '.join(sorted(refusals))}."
    if any(answer.status in ("failed", "cancelled") for answer in answers):
        return "The networks that the law chose were not trained to the end."
    return "No network has been trained for real yet."
