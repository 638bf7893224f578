"""The report of a family, as far as its members have come."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from pruning import wording as q
from pruning.errors import SecateurError
from pruning.family.members import Run
from pruning.family.sections import build_sections, describe_smallest_run
from pruning.family.sizes import Size
from pruning.family.turn import State
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
    """Everything that is known; `spec` as submitted, `data` the dataset's name."""
    lost = [run for run in state.runs if run.status in ("failed", "cancelled")]
    failures = [
        Failure(
            name=run.member.key,
            code=f"member_{run.status}",
            message=run.error or f"job {run.job} was {run.status}",
        )
        for run in lost
    ]
    if failure is not None:
        failures.insert(0, Failure(name="scaling_law", code=failure.code, message=failure.message))
    warnings = (
        []
        if state.refusal is None or failure is not None
        else [f"no joint law yet: {state.refusal}"]
    )
    warnings += [
        f"joint law: {one}" for one in (state.law.warnings if state.law is not None else ())
    ]
    classes = next((run.curve.classes for run in state.runs if run.curve is not None), None)
    return FamilyReport(
        job_id=job_id,
        spec=spec,
        architecture=state.spec.model.architecture,
        data=data,
        classes=classes,
        members=tuple(_rows(state)),
        law=None if state.law is None else state.law.model_dump(mode="json"),
        dense_law=None if state.dense is None else state.dense.model_dump(mode="json"),
        answers=state.answers,
        candidates=tuple(
            CandidateRow(**one.model_dump(), kwargs=_size(state, one.depth, one.width).kwargs)
            for one in state.candidates
        ),
        sections=build_sections(state),
        recommendation=_recommend(state.answers, state.spec.method),
        failures=tuple(failures),
        warnings=tuple(warnings),
        partial=not state.finished,
        secateur=importlib.metadata.version("secateur"),
    )


def _size(state: State, depth: float, width: float) -> Size:
    return next(one for one in state.sizes if (one.depth, one.width) == (depth, width))


def _rows(state: State) -> list[MemberRow]:
    runs = {run.member.key: run for run in state.runs if run.member.role == "member"}
    rows = []
    for planned in state.every:
        run = runs.get(planned.key)
        member = planned if run is None else run.member
        size = _size(state, member.depth, member.width)
        found = MemberRow(
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
        rows.append(found if run is None else found.model_copy(update=_measured(run)))
    return rows


def _measured(run: Run) -> dict[str, Any]:
    if run.curve is None or run.status != "succeeded":
        return {}
    return {
        "images": run.curve.images,
        "unpruned_error": run.curve.unpruned_error,
        "densities": run.curve.densities,
        "errors": run.curve.errors,
    }


def _keeps(answer: FamilyAnswer) -> bool:
    """Whether the test images do not prove an error above the tolerated one."""
    found = answer.measured
    return (
        found is not None and (found.value if found.low is None else found.low) <= answer.max_error
    )


def _recommend(answers: tuple[FamilyAnswer, ...], method: str) -> FamilyRecommendation:
    """The network with the fewest parameters of those that were trained for real and kept to their
    tolerated error.
    """
    trained = [one for one in answers if one.checkpoint is not None and one.measured is not None]
    good = sorted(
        (one for one in trained if _keeps(one)), key=lambda one: one.measured_parameters or 0
    )
    if good:
        best = good[0]
        assert best.measured is not None
        return FamilyRecommendation(
            job=best.job,
            checkpoint=best.checkpoint,
            reason=(
                f"Depth {best.depth:g} and width {best.width:g}, pruned to a density of "
                f"{best.density:.3g}, keep "
                f"{q.count(best.measured_parameters or 0)} parameters at a measured test error of "
                f"{q.percent_with_interval(best.measured, 2)}; {q.percent(best.max_error, 2)} "
                "were tolerated."
            ),
        )
    if trained:
        closest = min(
            trained,
            key=lambda one: one.measured.value - one.max_error if one.measured is not None else 1.0,
        )
        assert closest.measured is not None
        instead = (
            ""
            if closest.smallest_run is None
            else f" {describe_smallest_run(closest.smallest_run, method)}"
        )
        return FamilyRecommendation(
            job=None,
            checkpoint=None,
            reason=(
                "The networks that the law chose were trained, and none keeps to its tolerated "
                "error: the closest measured "
                f"{q.percent_with_interval(closest.measured, 2)} where "
                f"{q.percent(closest.max_error, 2)} were tolerated. Ask for a lower "
                f"error than is tolerated, by the width of the band.{instead}"
            ),
        )
    reasons = {one.refused for one in answers if one.refused}
    reasons |= {
        f"{q.percent(one.max_error, 2)} of error allow no pruning"
        for one in answers
        if one.density == 1.0
    }
    return FamilyRecommendation(
        job=None,
        checkpoint=None,
        reason=(
            f"No network is recommended: {'; '.join(sorted(reasons))}."
            if reasons
            else "The networks that the law chose were not trained to the end."
            if any(one.status in ("failed", "cancelled") for one in answers)
            else "No network has been trained for real yet."
        ),
    )
