"""Families and their members' jobs: start members, wait for them, and let them follow what is asked
of the family.

A family is a job of its own whose turns are short. Between them it is parked: running, without
lease, and woken through the outbox by every member that ends. Members are ordinary jobs, younger
than their family: a transaction that locks several of these rows locks them in the order of their
ids. Who lets a member run again locks its family first, so that no family ends as succeeded beside
it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from sqlalchemy import Integer, func, or_, select
from sqlalchemy.orm import Session, aliased

from tasks.store import jobs
from tasks.store.assets import read_clock
from tasks.store.claims import Claim, lock_held_job, settle
from tasks.store.errors import TransitionError
from tasks.store.tables import FamilyMember, Job, JobLabel


def list_members(session: Session, family_id: str) -> list[tuple[FamilyMember, Job]]:
    """The members and their jobs, in the order of their creation."""
    query = (
        select(FamilyMember, Job)
        .join(Job, Job.id == FamilyMember.job_id)
        .where(FamilyMember.family_id == family_id)
    )
    return [(member, job) for member, job in session.execute(query.order_by(Job.id))]


def start_members(session: Session, claim: Claim, wanted: Sequence[Mapping[str, Any]]) -> list[str]:
    """Create the jobs of members that have none yet, `{key, member, spec, units}` each; returns the
    new jobs' ids.

    `LostError` when the family is not this claim's any more; nothing is started for one that is to
    pause or to end.
    """
    family = lock_held_job(session, claim)
    if family.status != "running":
        return []
    known = set(
        session.scalars(select(FamilyMember.key).where(FamilyMember.family_id == family.id))
    )
    labels = {
        row.key: row.value
        for row in session.scalars(select(JobLabel).where(JobLabel.job_id == family.id))
    }
    made = []
    for one in wanted:
        if one["key"] in known:
            continue
        job, _ = jobs.create(
            session,
            jobs.NewJob(
                project=family.project,
                spec=one["spec"],
                model_id=None,
                rewind_model_id=None,
                dataset_id=family.dataset_id,
                priority=family.priority,
                deadline_s=None,
                labels=labels,
                progress_total=one["units"],
            ),
        )
        session.add(
            FamilyMember(job_id=job.id, family_id=family.id, key=one["key"], member=one["member"])
        )
        jobs.add_event(
            session, family, "member", {"job": job.id, "status": job.status, **one["member"]}
        )
        made.append(job.id)
    session.flush()
    return made


def park(session: Session, claim: Claim, seen: Mapping[str, str]) -> None:
    """Let go of the family until a member ends; at once due again where one has that was still live
    as the turn saw it.

    `seen`: the status of every member's job, by id, that the turn knew.
    """
    family = lock_held_job(session, claim)
    if family.status != "running":
        status = {"pausing": "paused", "cancelling": "cancelled"}[family.status]
        family.owner, family.lease_until = None, None
        family.finished_at = read_clock(session) if status == "cancelled" else None
        jobs.set_status(session, family, status)
        return
    family.owner, family.lease_until, family.eta_s = jobs.PARKED, None, None
    family.updated_at, family.attempt = read_clock(session), 1
    if not _record_seen(session, family, seen):
        jobs.enqueue(session, family, family.updated_at)


def finish(
    session: Session, claim: Claim, seen: Mapping[str, str], summary: dict[str, Any] | None
) -> None:
    """End the family as succeeded; let go of it instead where a member is live, or ended otherwise
    than the turn saw.
    """
    family = lock_held_job(session, claim)
    now = {job.id: job.status for _, job in list_members(session, family.id)}
    if family.status != "cancelling" and any(
        status not in jobs.TERMINAL or seen.get(id) != status for id, status in now.items()
    ):
        park(session, claim, seen)
    else:
        _record_seen(session, family, seen)
        settle(session, claim, "succeeded", summary=summary)


def _record_seen(session: Session, family: Job, seen: Mapping[str, str]) -> bool:
    """Keep what the turn saw, with an event for every member that has ended; whether it saw all
    that have.
    """
    complete, news = True, False
    for row, job in list_members(session, family.id):
        before, row.seen = row.seen, job.status if seen.get(job.id) == job.status else None
        complete &= job.status not in jobs.TERMINAL or row.seen is not None
        if row.seen in jobs.TERMINAL and row.seen != before:
            jobs.add_event(
                session, family, "member", {"job": job.id, "status": row.seen, **row.member}
            )
            news = True
    if news:
        grown = sum_progress(session, [family.id])[family.id]
        jobs.add_event(
            session, family, "progress", {"done": grown.done, "total": grown.total, "eta_s": None}
        )
    return complete


def follow(session: Session, project: str, family_id: str, verb: str) -> int:
    """Ask every member for what was asked of the family; those for whom it is impossible stay as
    they are.

    Returns how many are under way to it now. In the transaction that asked the family: no turn
    comes between the two.
    """
    under_way = 0
    for id in session.scalars(
        select(FamilyMember.job_id)
        .where(FamilyMember.family_id == family_id)
        .order_by(FamilyMember.job_id)
    ).all():
        before = session.get(Job, id)
        status = None if before is None else before.status
        try:
            now = jobs.request(session, project, id, verb).status
            under_way += now != status and now in jobs.UNDER_WAY
        except TransitionError:
            continue
    return under_way


def cancel_stragglers(session: Session) -> int:
    """Cancel the live members of families that were cancelled, or failed; returns how many.

    Whoever cancelled the family may have died before it could tell them, and a deadline tells
    nobody. A member that was asked to run again afterwards is let be.
    """
    family, member = aliased(Job), aliased(Job)
    query = (
        select(member.project, member.id)
        .join(FamilyMember, FamilyMember.job_id == member.id)
        .join(family, family.id == FamilyMember.family_id)
        .where(
            family.status.in_(("cancelled", "failed")),
            member.status.in_(("queued", "running", "pausing", "paused")),
            or_(FamilyMember.asked_at.is_(None), FamilyMember.asked_at <= family.finished_at),
        )
        .order_by(member.id)
        .with_for_update(key_share=True, of=family)
    )  # none is retried meanwhile
    moved = 0
    for project, id in session.execute(query).all():
        with suppress(TransitionError):  # it has just ended
            jobs.request(session, project, id, "cancel")
            moved += 1
    return moved


class MemberProgress(NamedTuple):
    """How far a family's members are: their work done and in all, and how many have ended, are
    paused, and are there.
    """

    done: float
    total: float
    ended: int
    paused: int
    members: int


def sum_progress(session: Session, ids: Sequence[str]) -> dict[str, MemberProgress]:
    """How far the members are, by family that has any."""
    ended = func.sum(Job.status.in_(jobs.TERMINAL).cast(Integer))
    paused = func.sum((Job.status == "paused").cast(Integer))
    query = (
        select(
            FamilyMember.family_id,
            func.sum(Job.progress_done),
            func.sum(Job.progress_total),
            ended,
            paused,
            func.count(),
        )
        .join(Job, Job.id == FamilyMember.job_id)
        .where(FamilyMember.family_id.in_(ids))
        .group_by(FamilyMember.family_id)
    )
    return {
        id: MemberProgress(float(done), float(total), int(over), int(waiting), int(count))
        for id, done, total, over, waiting, count in session.execute(query)
    }


def find_memberships(session: Session, ids: Sequence[str]) -> dict[str, FamilyMember]:
    """Of the jobs that are members of a family: which."""
    return {
        row.job_id: row
        for row in session.scalars(select(FamilyMember).where(FamilyMember.job_id.in_(ids)))
    }
