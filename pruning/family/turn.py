"""A turn of a family: read the members' jobs, fit, and decide what to run and report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pruning.errors import InsufficientPointsError, SecateurError
from pruning.family import answers, design
from pruning.family.confirmation import judge_answers
from pruning.family.measurements import (
    FamilyMeasurements,
    fit_family_law,
    fit_unpruned_errors,
    gather_measurements,
)
from pruning.family.members import Member, Run, list_members
from pruning.family.sizes import Size
from pruning.family.smallest_run import find_smallest_run
from pruning.laws.answers import Answers, Candidate
from pruning.laws.dense import DenseLaw
from pruning.laws.fitting import ENOUGH_NETWORKS
from pruning.laws.joint import JointLaw
from pruning.schemas.family import FamilySpec
from pruning.schemas.family_report import FamilyAnswer


@dataclass(frozen=True, kw_only=True)
class State:
    """The family after a turn."""

    spec: FamilySpec
    members: tuple[Member, ...]
    """All members of the spec, run or not."""
    runs: tuple[Run, ...]
    sizes: tuple[Size, ...]
    points: FamilyMeasurements | None
    law: JointLaw | None
    refusal: SecateurError | None
    """The reason why there is no law."""
    dense: DenseLaw | None
    dense_refusal: str
    """The reason why there is no law of the unpruned errors; empty if there is one."""
    band: float | None
    """Mean half-width of the band over members and densities, if the family is adaptive."""
    answers: tuple[FamilyAnswer, ...] = ()
    law_answers: tuple[Answers | str, ...] = ()
    """The law's answer, or its refusal, behind each of `answers`."""
    candidates: tuple[Candidate, ...] = ()
    remarks: tuple[str, ...] = ()
    """Remarks on the candidates."""
    start: tuple[Member, ...]
    """The members and answers to be run now."""
    finished: bool
    """Whether nothing is under way and nothing is left to run."""


def take_turn(spec: FamilySpec, sizes: Sequence[Size], runs: Sequence[Run]) -> State:
    """The state of the family whose members' jobs stand as in `runs`; it depends on nothing else.

    The answers are computed in every turn, and trained once every member has ended.
    """
    members = list_members(spec)
    own = [run for run in runs if run.member.role == "member"]
    points = gather_measurements(own)
    law, refusal = _fit_law(points, own)
    dense, dense_refusal = _fit_dense_law(own)
    band, start = _choose_members(spec, sizes, members=members, own=own, points=points, law=law)
    state = State(
        spec=spec,
        members=members,
        runs=tuple(runs),
        sizes=tuple(sizes),
        points=points,
        law=law,
        refusal=refusal,
        dense=dense,
        dense_refusal=dense_refusal,
        band=band,
        start=start,
        finished=False,
    )
    if points is not None and law is not None:
        state = _answer(state, points, law, own)
    return replace(state, finished=not state.start and all(run.ended for run in runs))


def _answer(state: State, points: FamilyMeasurements, law: JointLaw, own: Sequence[Run]) -> State:
    """The state with the answers to the tolerated errors, and with those to be trained now."""
    spec = state.spec
    images = _count_images(own)
    candidates, remarks = answers.list_candidates(
        spec,
        points,
        state.sizes,
        images=images,
        dense=state.dense,
        seed_sd=law.seed_effect.sd,
    )
    trained = {run.member.max_error: run for run in state.runs if run.member.role == "answer"}
    # Without errors in the spec the default moves with the law; the first that was trained stays.
    errors = spec.max_error or tuple(error for error in trained if error is not None)
    law_answers: list[Answers | str] = []
    rows = []
    start = list(state.start)
    settled = not start and all(run.ended for run in own)
    for error in errors or answers.list_tolerated_errors(spec, points):
        law_answer = answers.answer_tolerated(spec, law, error, candidates)
        row = answers.report_answer(spec, law, error, law_answer, trained.get(error))
        smallest_run = find_smallest_run(spec, state.runs, error)
        law_answers.append(law_answer)
        update = {"smallest_run": smallest_run, "chosen_on": points.on}
        rows.append(row.model_copy(update=update))
        if not settled or not spec.confirm or error in trained or isinstance(law_answer, str):
            continue
        if 0 < law_answer.best.density < 1:
            fraction = max(network[2] for network in points.networks)
            start.append(answers.choose_verification(spec, error, law_answer.best, fraction))
    return replace(
        state,
        answers=judge_answers(rows),
        law_answers=tuple(law_answers),
        candidates=tuple(candidates),
        remarks=tuple(remarks),
        start=tuple(start),
    )


def _fit_law(
    points: FamilyMeasurements | None, own: Sequence[Run]
) -> tuple[JointLaw | None, SecateurError | None]:
    """The joint law, or the reason why there is none."""
    if points is None:
        succeeded = sum(run.status == "succeeded" for run in own)
        if not succeeded:
            return None, InsufficientPointsError("no member has measured anything yet")
        return None, InsufficientPointsError(
            f"none of the {succeeded} members that succeeded has errors that a law can describe: "
            "all are 0, or as of guessing"
        )
    try:
        return fit_family_law(points), None
    except SecateurError as refusal:
        return None, refusal


def _fit_dense_law(own: Sequence[Run]) -> tuple[DenseLaw | None, str]:
    """The law of the unpruned errors, or the reason why there is none."""
    try:
        return fit_unpruned_errors(own), ""
    except SecateurError as refusal:
        return None, refusal.message


def _count_images(own: Sequence[Run]) -> int | None:
    """The number of training images of the largest fraction that was run."""
    return max((run.curve.images for run in own if run.curve is not None), default=None)


def _choose_members(
    spec: FamilySpec,
    sizes: Sequence[Size],
    *,
    members: Sequence[Member],
    own: Sequence[Run],
    points: FamilyMeasurements | None,
    law: JointLaw | None,
) -> tuple[float | None, tuple[Member, ...]]:
    """The band of an adaptive family, and the members to run now."""
    taken = {run.member.key for run in own}
    left = [member for member in members if member.key not in taken]
    adaptive = spec.adaptive
    if adaptive is None:
        return None, tuple(left)
    work = {(size.depth, size.width): float(size.flops) for size in sizes}
    allowed = min(adaptive.max_members or len(members), len(members)) - len(own)
    if not own:
        return None, design.choose_first_members(members, work)[:allowed]
    under_way = [run.member for run in own if not run.ended]
    places = min(adaptive.at_once - len(under_way), allowed, len(left))

    def count_work(member: Member) -> float:
        return work[member.depth, member.width] * member.fraction

    if law is None or points is None:
        # What is under way may bring a law; with nothing under way, the cheapest that are left.
        cheapest = sorted(left, key=count_work)
        return None, () if under_way or places <= 0 else tuple(cheapest[:places])
    current = design.build_design(spec, law, points, members)
    band = current.compute_band(spec.confidence)
    telling = design.find_telling_members(left, points, members)
    if places > 0 and telling:
        # All measured networks share a depth or width: the band is of that one alone, and does not
        # count before a member with another one has been run.
        if design.find_telling_members(under_way, points, members):
            return None, ()
        return None, (min(telling, key=count_work),)
    narrow = band <= adaptive.band and len(points.networks) >= ENOUGH_NETWORKS
    if places <= 0 or narrow:
        return band, ()
    return band, design.choose_next_members(
        spec, current, left=left, under_way=under_way, work=work, count=places
    )
