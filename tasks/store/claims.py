"""Jobs as workers see them: claim with a fence, heartbeat, save, settle; and the reaper's sweep.

Every write of a worker names the fence it claimed with. A worker whose lease was taken over holds
an old fence: its writes touch no row, it learns so (`Lost`) and stops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, delete, or_, select, update
from sqlalchemy.orm import Session

from tasks.store.assets import read_clock
from tasks.store.engine import db_now, insert_into
from tasks.store.jobs import (
    add_event,
    enqueue,
    has_turn_due,
    is_idle,
    is_parked,
    lock_job,
    set_status,
)
from tasks.store.tables import Job, Leader, Outbox, ResultFile, StageFile

HELD = ("running", "pausing", "cancelling")
REPUBLISH_S = 60.0


class LostError(Exception):
    """The lease was lost: another worker holds the job, or it has been settled."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The right to work on a job, until a newer fence is issued."""

    job_id: str
    fence: int
    project: str
    spec: dict[str, Any]
    model_id: str | None
    rewind_model_id: str | None
    dataset_id: str | None
    attempt: int
    deadline_at: float | None


@dataclass(frozen=True)
class SavedFile:
    """A file in the artifact store."""

    artifact: str
    sha256: str
    size_bytes: int


def claim(
    session: Session,
    job_id: str,
    owner: str,
    lease_s: float,
    *,
    max_attempts: int,
    gone: Callable[[str], bool] = lambda owner: False,
) -> Claim | None:
    """Take the job if it is queued and due, or running under a stale lease; None leaves it to
    others.

    `gone(owner)` says whether an owner on this host has died, which makes its lease stale at once.
    """
    job = lock_job(session, job_id)
    if job is None:
        return None
    turn = is_parked(job)
    if turn and not has_turn_due(session, job):
        return None
    if turn:
        job.status = "queued"
        session.flush()
    elif job.status in HELD and _is_stale(session, job, gone):
        release(session, job, max_attempts=max_attempts)
    if job.status != "queued" or job.available_at > read_clock(session):
        return None
    taken = session.execute(
        update(Job)
        .where(Job.id == job_id, Job.status == "queued", Job.fence == job.fence)
        .values(
            fence=job.fence + 1,
            owner=owner,
            lease_until=db_now() + lease_s,
            progress_at=db_now(),
            publishes=0,
        )
        .execution_options(synchronize_session=False)
    )
    if taken.rowcount != 1:  # type: ignore[attr-defined]
        return None
    session.refresh(job)
    job.started_at = job.started_at or read_clock(session)
    if turn:  # one of many turns, and no news
        job.status = "running"
    else:
        set_status(session, job, "running", attempt=job.attempt)
    session.execute(delete(Outbox).where(Outbox.job_id == job_id))
    session.flush()
    return Claim(
        job_id=job.id,
        fence=job.fence,
        project=job.project,
        spec=job.spec,
        model_id=job.model_id,
        rewind_model_id=job.rewind_model_id,
        dataset_id=job.dataset_id,
        attempt=job.attempt,
        deadline_at=job.deadline_at,
    )


def heartbeat(session: Session, claim: Claim, lease_s: float) -> str:
    """Extend the lease and return the job's status (`running`, `cancelling`, `pausing`);
    `LostError` when it is gone.
    """
    job = lock_held_job(session, claim)
    job.lease_until = read_clock(session) + lease_s
    return job.status


def read_status(session: Session, claim: Claim) -> str:
    """The job's status, read without a lock; `LostError` when the claim is not the newest."""
    job = session.get(Job, claim.job_id)
    if job is None or job.fence != claim.fence or job.status not in HELD:
        raise LostError(f"job {claim.job_id}: fence {claim.fence} is not the newest")
    return job.status


def lock_held_job(session: Session, claim: Claim) -> Job:
    """The job's locked row while the claim is the newest, or `LostError`."""
    job = lock_job(session, claim.job_id)
    if job is None or job.fence != claim.fence or job.status not in HELD:
        raise LostError(f"job {claim.job_id}: fence {claim.fence} is not the newest")
    return job


def record_progress(
    session: Session,
    claim: Claim,
    *,
    stage: str | None = None,
    done: float | None = None,
    total: float | None = None,
    eta_s: float | None = None,
) -> None:
    """Record where the job is."""
    job = lock_held_job(session, claim)
    job.progress_at = job.updated_at = read_clock(session)
    if stage is not None and stage != job.stage:
        job.stage = stage
        add_event(session, job, "stage", {"stage": stage})
    if done is not None and total is not None:
        job.progress_done, job.progress_total, job.eta_s = done, total, eta_s
        add_event(session, job, "progress", {"done": done, "total": total, "eta_s": eta_s})


def record_event(session: Session, claim: Claim, type: str, data: dict[str, Any]) -> None:
    """Append a row to the job's history."""
    add_event(session, lock_held_job(session, claim), type, data)


def save_stage(session: Session, claim: Claim, name: str, file: SavedFile) -> str | None:
    """Point the stage `name` at its file and return the artifact it replaces.

    Saved work is progress: the attempts start again. The same bytes once more are not: an attempt
    that redoes what the one before had done, and dies where that died, gets no further.
    """
    job = lock_held_job(session, claim)
    before = session.get(StageFile, (job.id, name))
    replaced, before_sha256 = (
        (before.artifact, before.sha256) if before is not None else (None, None)
    )
    session.merge(
        StageFile(
            job_id=job.id,
            name=name,
            artifact=file.artifact,
            sha256=file.sha256,
            size_bytes=file.size_bytes,
            fence=claim.fence,
        )
    )
    if before_sha256 != file.sha256:
        job.progress_at = read_clock(session)
        job.attempt = 1
    return replaced


def drop_stage(session: Session, claim: Claim, name: str) -> str | None:
    """Forget a stage that a later one replaces and return its artifact."""
    lock_held_job(session, claim)
    row = session.get(StageFile, (claim.job_id, name))
    if row is None:
        return None
    session.delete(row)
    return row.artifact


def save_result(
    session: Session, claim: Claim, checkpoint: str, format: str, file: SavedFile
) -> None:
    """Make a file downloadable; a resumed job that writes it again replaces it."""
    lock_held_job(session, claim)
    session.merge(
        ResultFile(
            job_id=claim.job_id,
            checkpoint=checkpoint,
            format=format,
            artifact=file.artifact,
            sha256=file.sha256,
            size_bytes=file.size_bytes,
            fence=claim.fence,
        )
    )


def settle(
    session: Session,
    claim: Claim,
    status: str,
    *,
    summary: dict[str, Any] | None = None,
    error: dict[str, Any] | None = None,
) -> None:
    """End the job: one fenced write of status, results and error. A success needs its stages no
    more.
    """
    job = lock_held_job(session, claim)
    if job.status == "cancelling":  # asked for while the last files were stored
        status, error = "cancelled", None
    job.summary = summary if summary is not None else job.summary
    job.error = error
    if status == "succeeded":
        session.execute(delete(StageFile).where(StageFile.job_id == job.id))
    _end(session, job, status)


def hand_back(session: Session, claim: Claim) -> None:
    """Give the job back unharmed (the worker stops, or a pause was asked for); counts as no
    attempt.
    """
    job = lock_held_job(session, claim)
    _let_go(
        session,
        job,
        {"running": "queued", "pausing": "paused", "cancelling": "cancelled"}[job.status],
    )


def crash(session: Session, claim: Claim, reason: str, *, max_attempts: int) -> None:
    """The job process died: try again, or fail at `max_attempts` without progress."""
    release(session, lock_held_job(session, claim), max_attempts=max_attempts, reason=reason)


def release(
    session: Session, job: Job, *, max_attempts: int, reason: str = "the worker was lost"
) -> None:
    """Take the job from an owner that died: queue it again after a pause, settle what was asked
    for, or fail it.
    """
    if job.status != "running":
        _let_go(session, job, {"pausing": "paused", "cancelling": "cancelled"}[job.status])
        return
    job.attempt += 1
    add_event(session, job, "attempt", {"attempt": job.attempt, "reason": reason})
    if job.attempt > max_attempts:
        job.error = {
            "code": "worker_lost",
            "stage": job.stage,
            "retryable": True,
            "attempt": max_attempts,
            "message": f"{max_attempts} attempts ended without progress; the last: {reason}",
        }
        _end(session, job, "failed")
        return
    _let_go(session, job, "queued", delay_s=min(30.0, 0.5 * 2.0 ** (job.attempt - 2)))


def _let_go(session: Session, job: Job, status: str, delay_s: float = 0.0) -> None:
    if status == "cancelled":
        _end(session, job, status)
        return
    job.owner, job.lease_until = None, None
    set_status(session, job, status)
    if status == "queued":
        job.available_at = read_clock(session) + delay_s
        enqueue(session, job, job.available_at)


def _end(session: Session, job: Job, status: str) -> None:
    job.owner, job.lease_until, job.eta_s = None, None, None
    job.finished_at = read_clock(session)
    set_status(session, job, status)
    session.execute(delete(Outbox).where(Outbox.job_id == job.id))


def _is_stale(session: Session, job: Job, gone: Callable[[str], bool]) -> bool:
    return (
        job.lease_until is None
        or job.lease_until < read_clock(session)
        or (job.owner is not None and gone(job.owner))
    )


def sweep(session: Session, *, max_attempts: int, gone: Callable[[str], bool]) -> int:
    """The reaper: free jobs with a stale lease, end those past their deadline, publish again what
    nobody claimed.

    Returns the number of jobs touched.
    """
    touched = 0
    at = read_clock(session)
    unclaimed = and_(
        Job.status == "queued",
        Job.available_at < at,
        or_(Job.published_at.is_(None), Job.published_at < at - REPUBLISH_S),
    )
    overdue = and_(Job.status.in_(("queued", "paused")), Job.deadline_at < at)
    candidates = (
        select(Job.id).where(or_(Job.status.in_(HELD), overdue, unclaimed)).order_by(Job.id)
    )
    for id in session.scalars(
        candidates
    ).all():  # in this order: two sweeps at once do not lock each other out
        job = lock_job(session, id)
        if job is None:
            continue
        waiting = is_parked(job)
        if job.status in HELD and not waiting and _is_stale(session, job, gone):
            release(session, job, max_attempts=max_attempts)
        elif (
            (waiting or job.status in ("queued", "paused"))
            and job.deadline_at is not None
            and job.deadline_at < at
        ):
            job.error = build_deadline_error(job.stage, job.attempt)
            _end(session, job, "failed")
        elif (job.status == "queued" and job.available_at < at and _is_due_again(job, at)) or (
            waiting
            and job.updated_at < at - REPUBLISH_S
            and _is_due_again(job, at)
            and is_idle(session, job)
        ):
            enqueue(session, job, at)
        else:
            continue
        touched += 1
    return touched


def _is_due_again(job: Job, at: float) -> bool:
    """Each republication waits twice as long as the one before (up to an hour): a long queue floods
    no broker.
    """
    return job.published_at is None or at - job.published_at > min(
        3600.0, REPUBLISH_S * 2.0 ** (job.publishes - 1)
    )


def build_deadline_error(stage: str | None, attempt: int) -> dict[str, Any]:
    """The error of a job that ran past its deadline."""
    return {
        "code": "deadline_exceeded",
        "message": "the job did not end within its deadline_s",
        "stage": stage,
        "retryable": False,
        "attempt": attempt,
    }


def list_due_messages(session: Session, limit: int = 100) -> list[Outbox]:
    """The outbox rows that may be published now, oldest first."""
    query = select(Outbox).where(Outbox.due_at <= db_now()).order_by(Outbox.id).limit(limit)
    return list(session.scalars(query))


def mark_published(session: Session, message: Outbox) -> None:
    """The message has reached the broker: remove it and remember when."""
    session.execute(
        update(Job)
        .where(Job.id == message.job_id)
        .values(published_at=db_now(), publishes=Job.publishes + 1)
    )
    session.execute(delete(Outbox).where(Outbox.id == message.id))


def lead(
    session: Session,
    role: str,
    owner: str,
    lease_s: float,
    gone: Callable[[str], bool] = lambda owner: False,
) -> bool:
    """Whether `owner` holds `role` for the next `lease_s` seconds: one process at a time does.

    A leader that `gone` knows to have died is replaced at once.
    """
    leader = session.scalar(select(Leader.owner).where(Leader.role == role))
    if leader is not None and leader != owner and gone(leader):
        session.execute(delete(Leader).where(Leader.role == role, Leader.owner == leader))
    taken = session.execute(
        update(Leader)
        .where(and_(Leader.role == role, or_(Leader.owner == owner, Leader.lease_until < db_now())))
        .values(owner=owner, lease_until=db_now() + lease_s)
    )
    if taken.rowcount == 1:  # type: ignore[attr-defined]
        return True
    first = insert_into(session, Leader).values(
        role=role, owner=owner, lease_until=read_clock(session) + lease_s
    )
    return session.scalar(first.on_conflict_do_nothing().returning(Leader.role)) is not None
