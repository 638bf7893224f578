"""One turn of a family: look at the members' jobs, fit, and say what to run next and what to
report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pruning.errors import InsufficientPointsError, SecateurError
from pruning.family import answers, design
from pruning.family.measurements import (
    FamilyMeasurements,
    fit_family_law,
    fit_unpruned_errors,
    gather_measurements,
)
from pruning.family.members import Member, Run, list_members
from pruning.family.sizes import Size
from pruning.laws.answers import Answers, Candidate
from pruning.laws.dense import DenseLaw
from pruning.laws.fitting import FEW_NETWORKS
from pruning.laws.joint import JointLaw
from pruning.schemas.family import FamilySpec
from pruning.schemas.family_report import FamilyAnswer


@dataclass(frozen=True, kw_only=True)
class State:
    """What is known after a turn."""

    spec: FamilySpec
    every: tuple[Member, ...]
    runs: tuple[Run, ...]
    sizes: tuple[Size, ...]
    points: FamilyMeasurements | None
    law: JointLaw | None
    refusal: SecateurError | None
    """Why there is no law."""
    dense: DenseLaw | None
    dense_refusal: str
    band: float | None
    """Of an adaptive family: mean half-width over its members and densities."""
    answers: tuple[FamilyAnswer, ...]
    asked: tuple[Answers | str, ...]
    candidates: tuple[Candidate, ...]
    remarks: tuple[str, ...]
    start: tuple[Member, ...]
    """What is to be run now."""
    finished: bool
    """Nothing is under way and nothing is left to run."""


def take_turn(spec: FamilySpec, sizes: Sequence[Size], runs: Sequence[Run]) -> State:
    """The state of the family whose members' jobs stand as `runs` say; the same runs give the same
    state.

    The answers are asked, and trained, once every member has ended.
    """
    every, own = list_members(spec), [run for run in runs if run.member.role == "member"]
    points = gather_measurements(own)
    law, refusal = _law(points, own)
    dense, dense_refusal = _dense(own)
    band, start = _next(spec, sizes, every=every, own=own, points=points, law=law)
    settled = not start and all(run.ended for run in own)
    asked: list[Answers | str] = []
    rows: list[FamilyAnswer] = []
    remarks: list[str] = []
    networks: list[Candidate] = []
    if points is not None and law is not None:
        images = _images(own)
        networks, remarks = answers.list_candidates(spec, points, sizes, images, dense)
        trained = {run.member.max_error: run for run in runs if run.member.role == "answer"}
        for error in (
            spec.max_error
            or tuple(one for one in trained if one is not None)
            or answers.list_tolerated_errors(spec, points)
        ):
            asked.append(answers.answer_tolerated(spec, law, error, networks))
            rows.append(
                answers.report_answer(spec, law, error, asked[-1], trained.get(error)).model_copy(
                    update={"smallest_run": answers.find_smallest_run(spec, runs, error)}
                )
            )
            if (
                settled
                and spec.confirm
                and error not in trained
                and not isinstance(found := asked[-1], str)
                and 0 < found.best.density < 1
            ):
                start = (
                    *start,
                    answers.choose_verification(
                        spec, error, found.best, max(one[2] for one in points.networks)
                    ),
                )
    finished = not start and all(run.ended for run in runs)
    return State(
        spec=spec,
        every=every,
        runs=tuple(runs),
        sizes=tuple(sizes),
        points=points,
        law=law,
        refusal=refusal,
        dense=dense,
        dense_refusal=dense_refusal,
        band=band,
        answers=tuple(rows),
        asked=tuple(asked),
        candidates=tuple(networks),
        remarks=tuple(remarks),
        start=start,
        finished=finished,
    )


def _law(
    points: FamilyMeasurements | None, own: Sequence[Run]
) -> tuple[JointLaw | None, SecateurError | None]:
    if points is None:
        succeeded = sum(run.status == "succeeded" for run in own)
        return None, InsufficientPointsError(
            f"none of the {succeeded} members that succeeded has errors that a law can be of: "
            "all are 0, or as of guessing"
            if succeeded
            else "no member has measured anything yet"
        )
    try:
        return fit_family_law(points), None
    except SecateurError as short:
        return None, short


def _dense(own: Sequence[Run]) -> tuple[DenseLaw | None, str]:
    try:
        return fit_unpruned_errors(own), ""
    except SecateurError as short:
        return None, short.message


def _images(own: Sequence[Run]) -> int | None:
    """Training images of the largest fraction that was run."""
    return max((run.curve.images for run in own if run.curve is not None), default=None)


def _next(
    spec: FamilySpec,
    sizes: Sequence[Size],
    *,
    every: Sequence[Member],
    own: Sequence[Run],
    points: FamilyMeasurements | None,
    law: JointLaw | None,
) -> tuple[float | None, tuple[Member, ...]]:
    """The band of an adaptive family, and the members to run now."""
    taken = {run.member.key for run in own}
    left = [one for one in every if one.key not in taken]
    if spec.adaptive is None:
        return None, tuple(left)
    work = {(one.depth, one.width): float(one.flops) for one in sizes}
    most = min(spec.adaptive.max_members or len(every), len(every)) - len(own)
    if not own:
        return None, design.choose_first_members(every, work)[:most]
    under_way = [run.member for run in own if not run.ended]
    found = (
        design.build_design(spec, law, points, every)
        if law is not None and points is not None
        else None
    )
    band = found.band(spec.confidence) if found is not None else None
    places = min(spec.adaptive.at_once - len(under_way), most, len(left))
    narrow = band is not None and band <= spec.adaptive.band
    telling = design.find_telling_members(left, points, every) if points is not None else []
    if (
        places > 0 and found is not None and telling
    ):  # the law is blind to depth or width: its band is of what it sees
        blind = (
            not design.find_telling_members(under_way, points, every)
            if points is not None
            else True
        )
        return None, tuple(
            sorted(telling, key=lambda one: work[one.depth, one.width] * one.fraction)[:1]
        ) if blind else ()
    if places <= 0 or (
        narrow and len(points.networks if points is not None else ()) >= FEW_NETWORKS
    ):
        return band, ()
    if found is None:  # no law yet: what is under way may give one, else the cheapest that is left
        cheapest = sorted(left, key=lambda one: work[one.depth, one.width] * one.fraction)
        return band, () if under_way else tuple(cheapest[:places])
    return band, design.choose_next_members(
        spec, found, left=left, under_way=under_way, work=work, count=places
    )
