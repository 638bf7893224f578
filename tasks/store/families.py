"""Families and their members' jobs: start members, wait for them, and pass on to them what a client
asks of the family. A pruning job with replicates is a family in this sense; they are its members.

A family is a job of its own whose turns are short. Between turns it is parked: it is running,
without a lease, and every member that ends wakes it through the outbox. Members are ordinary jobs,
younger than their family. A transaction that locks several of these rows locks them in the order
of their ids. A transaction that lets a member run again locks the family first, so that the family
cannot end as succeeded at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from sqlalchemy import Integer, bindparam, func, or_, select
from sqlalchemy.orm import Session, aliased

from pruning.schemas.job import TERMINAL, list_shifted_ids
from tasks.store import jobs
from tasks.store.assets import read_clock
from tasks.store.claims import Claim, lock_held_job, settle
from tasks.store.errors import TransitionError
from tasks.store.tables import FamilyMember, Job, JobLabel


def list_members(session: Session, family_id: str) -> list[tuple[FamilyMember, Job]]:
    """Return the members and their jobs, in the order of their creation."""
    query = (
        select(FamilyMember, Job)
        .join(Job, Job.id == FamilyMember.job_id)
        .where(FamilyMember.family_id == family_id)
    )
    return [(member, job) for member, job in session.execute(query.order_by(Job.id))]


def start_members(session: Session, claim: Claim, wanted: Sequence[Mapping[str, Any]]) -> list[str]:
    """Create the jobs of the wanted members that have none yet, and return the new jobs' ids.

    A wanted member is `{key, member, spec, units}`. A family that is about to pause or to end gets
    no new members. Raises `LostError` when the claim is not the newest.
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
    created = []
    for member in wanted:
        if member["key"] in known:
            continue
        job, _ = jobs.create(
            session,
            jobs.NewJob(
                project=family.project,
                spec=member["spec"],
                model_id=family.model_id,
                rewind_model_id=family.rewind_model_id,
                dataset_id=family.dataset_id,
                shifted_ids=frozenset(list_shifted_ids(member["spec"])),
                priority=family.priority,
                deadline_s=None,
                labels=labels,
                progress_total=member["units"],
            ),
        )
        network = member["member"]
        session.add(
            FamilyMember(job_id=job.id, family_id=family.id, key=member["key"], member=network)
        )
        event = {"job": job.id, "status": job.status, **network}
        jobs.add_event(session, family, "member", event)
        created.append(job.id)
    session.flush()
    return created


def park(session: Session, claim: Claim, known_statuses: Mapping[str, str]) -> None:
    """Let go of the family until a member ends.

    `known_statuses` holds the status of every member's job, by id, that the turn knew. Where a
    member has ended since, the next turn is due at once.
    """
    family = lock_held_job(session, claim)
    if family.status != "running":
        status = {"pausing": "paused", "cancelling": "cancelled"}[family.status]
        family.owner = None
        family.lease_until = None
        family.finished_at = read_clock(session) if status == "cancelled" else None
        jobs.set_status(session, family, status)
        return
    family.owner = jobs.PARKED
    family.lease_until = None
    family.eta_s = None
    family.updated_at = read_clock(session)
    family.attempt = 1
    if not _record_seen(session, family, known_statuses):
        jobs.enqueue(session, family, family.updated_at)


def finish(
    session: Session,
    claim: Claim,
    known_statuses: Mapping[str, str],
    summary: dict[str, Any] | None,
) -> None:
    """End the family as succeeded, or park it where a member is live or has ended otherwise than
    the turn knew.
    """
    family = lock_held_job(session, claim)
    statuses = {job.id: job.status for _, job in list_members(session, family.id)}
    has_news = any(
        status not in TERMINAL or known_statuses.get(id) != status
        for id, status in statuses.items()
    )
    if has_news and family.status != "cancelling":
        park(session, claim, known_statuses)
    else:
        _record_seen(session, family, known_statuses)
        settle(session, claim, "succeeded", summary=summary)


def _record_seen(session: Session, family: Job, known_statuses: Mapping[str, str]) -> bool:
    """Record the statuses that the turn knew, with an event for every member that has newly ended.

    Returns whether the turn knew of all members that have ended.
    """
    is_complete = True
    has_news = False
    for member, job in list_members(session, family.id):
        previous = member.seen
        is_known = known_statuses.get(job.id) == job.status
        member.seen = job.status if is_known else None
        if job.status in TERMINAL and not is_known:
            is_complete = False
        if member.seen in TERMINAL and member.seen != previous:
            event = {"job": job.id, "status": member.seen, **member.member}
            jobs.add_event(session, family, "member", event)
            has_news = True
    if has_news:
        members = sum_progress(session, [family.id])[family.id]
        progress = {"done": members.done, "total": members.total, "eta_s": None}
        jobs.add_event(session, family, "progress", progress)
    return is_complete


def follow(session: Session, project: str, family_id: str, verb: str) -> int:
    """Pass a client's request on to every member; members that cannot follow it stay as they are.

    Returns how many members are now on their way. Called in the transaction that changed the
    family, so that no turn comes between the two.
    """
    under_way = 0
    for id in session.scalars(
        select(FamilyMember.job_id)
        .where(FamilyMember.family_id == family_id)
        .order_by(FamilyMember.job_id)
    ).all():
        member = session.get(Job, id)
        previous = None if member is None else member.status
        try:
            status = jobs.request(session, project, id, verb).status
        except TransitionError:
            continue
        if status != previous and status in jobs.UNDER_WAY:
            under_way += 1
    return under_way


def cancel_stragglers(session: Session) -> int:
    """Cancel the live members of families that were cancelled or failed; return how many.

    The process that cancelled a family may have died before it could pass that on, and a deadline
    passes nothing on. A member that a client asked to run again afterwards is left alone.
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
        .with_for_update(key_share=True, of=family)  # so that no family is retried meanwhile
    )
    cancelled = 0
    for project, id in session.execute(query).all():
        with suppress(TransitionError):  # raised for a member that has just ended
            jobs.request(session, project, id, "cancel")
            cancelled += 1
    return cancelled


class MemberProgress(NamedTuple):
    """The sums over a family's members: work done, all work, and how many members have ended, are
    paused, and exist.
    """

    done: float
    total: float
    ended: int
    paused: int
    members: int


def sum_progress(session: Session, ids: Sequence[str]) -> dict[str, MemberProgress]:
    """Return the sums over the members, by family; a family without members is left out."""
    if not ids:
        return {}
    ended = func.sum(Job.status.in_(TERMINAL).cast(Integer))
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
        id: MemberProgress(
            done=float(done),
            total=float(total),
            ended=int(number_ended),
            paused=int(number_paused),
            members=int(number),
        )
        for id, done, total, number_ended, number_paused, number in session.execute(query)
    }


def find_memberships(session: Session, ids: Sequence[str]) -> dict[str, FamilyMember]:
    """Return the memberships of those jobs that are members of a family, by job id."""
    return {row.job_id: row for row in session.scalars(_MEMBERSHIPS, {"ids": ids})}


_MEMBERSHIPS = select(FamilyMember).where(FamilyMember.job_id.in_(bindparam("ids", expanding=True)))
"""Built once: every answer with a job asks this."""
