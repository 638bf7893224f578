"""Jobs as workers see them: claim with a fence, heartbeat, save, settle; and the reaper's sweep.

Every write of a worker names the fence that it claimed with. A worker whose lease was taken over
holds an old fence: its writes change no row, it gets a `LostError`, and it stops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, delete, or_, select, update
from sqlalchemy.orm import Session

from tasks import owners
from tasks.store.assets import read_clock
from tasks.store.engine import db_now
from tasks.store.jobs import (
    add_event,
    enqueue,
    has_turn_due,
    is_idle,
    is_parked,
    lock_job,
    set_status,
)
from tasks.store.tables import Job, Outbox, ResultFile, StageFile

HELD = ("running", "pausing", "cancelling")
REPUBLISH_S = 60.0
MAX_REPUBLISH_S = 3600.0
MAX_RETRY_DELAY_S = 30.0


class LostError(Exception):
    """The lease was lost: another worker holds the job, or it has been settled."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The right to work on a job until a newer fence is issued."""

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
    is_gone: Callable[[str], bool] = owners.never_gone,
) -> Claim | None:
    """Take the job if it is queued and due, or held under a stale lease; None leaves it to others.

    `is_gone(owner)` says whether an owner on this host has died: then its lease is stale at once.
    """
    job = lock_job(session, job_id)
    if job is None:
        return None
    is_turn = is_parked(job)
    if is_turn:
        if not has_turn_due(session, job):
            return None
        job.status = "queued"
        session.flush()
    elif job.status in HELD and _is_stale(session, job, is_gone):
        release(session, job, max_attempts=max_attempts)
    if job.status != "queued" or job.available_at > read_clock(session):
        return None
    if not _issue_fence(session, job, owner, lease_s):
        return None
    session.refresh(job)
    job.started_at = job.started_at or read_clock(session)
    if is_turn:  # a family takes many turns: its history does not list them
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


def _issue_fence(session: Session, job: Job, owner: str, lease_s: float) -> bool:
    """Give the owner a lease under the next fence; return False when another one was faster."""
    issued = session.execute(
        update(Job)
        .where(Job.id == job.id, Job.status == "queued", Job.fence == job.fence)
        .values(
            fence=job.fence + 1,
            owner=owner,
            lease_until=db_now() + lease_s,
            progress_at=db_now(),
            publishes=0,
        )
        .execution_options(synchronize_session=False)
    )
    return bool(issued.rowcount == 1)  # type: ignore[attr-defined]


def heartbeat(session: Session, claim: Claim, lease_s: float) -> str:
    """Extend the lease and return the job's status: `running`, `cancelling` or `pausing`.

    Raises `LostError` when the claim is not the newest.
    """
    job = lock_held_job(session, claim)
    job.lease_until = read_clock(session) + lease_s
    return job.status


def read_status(session: Session, claim: Claim) -> str:
    """Return the job's status without a lock; `LostError` when the claim is not the newest."""
    job = session.get(Job, claim.job_id)
    if job is None or job.fence != claim.fence or job.status not in HELD:
        raise LostError(f"job {claim.job_id}: fence {claim.fence} is not the newest")
    return job.status


def lock_held_job(session: Session, claim: Claim) -> Job:
    """Return the job's locked row; `LostError` when the claim is not the newest."""
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
    """Record the stage that the job is in, and how much of its work is done."""
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
    """Point the stage `name` at its file and return the artifact that it replaces.

    Saved work is progress, so the count of attempts starts again. The same bytes saved once more
    are not progress: an attempt that only repeats the one before, and dies where that one died,
    gets no further.
    """
    job = lock_held_job(session, claim)
    row = session.get(StageFile, (job.id, name))
    # Read now: the merge below changes this very row.
    replaced, replaced_sha256 = (row.artifact, row.sha256) if row else (None, None)
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
    if replaced_sha256 != file.sha256:
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
    """End the job with one fenced write of status, summary and error.

    A job that has succeeded no longer needs its stages.
    """
    job = lock_held_job(session, claim)
    if job.status == "cancelling":  # a client asked while the last files were being stored
        status, error = "cancelled", None
    if summary is not None:
        job.summary = summary
    job.error = error
    if status == "succeeded":
        session.execute(delete(StageFile).where(StageFile.job_id == job.id))
    _end(session, job, status)


def hand_back(session: Session, claim: Claim) -> None:
    """Give the job back because the worker stops or a client asked; this counts as no attempt."""
    job = lock_held_job(session, claim)
    next_status = {"running": "queued", "pausing": "paused", "cancelling": "cancelled"}[job.status]
    _let_go(session, job, next_status)


def crash(session: Session, claim: Claim, reason: str, *, max_attempts: int) -> None:
    """Try a job again whose process died, or fail it after `max_attempts` without progress."""
    release(session, lock_held_job(session, claim), max_attempts=max_attempts, reason=reason)


def release(
    session: Session, job: Job, *, max_attempts: int, reason: str = "the worker was lost"
) -> None:
    """Take the job from an owner that died.

    It is queued again after a delay, paused or cancelled if a client asked for that, or failed
    after `max_attempts` without progress.
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
    delay_s = min(MAX_RETRY_DELAY_S, 0.5 * 2.0 ** (job.attempt - 2))
    _let_go(session, job, "queued", delay_s=delay_s)


def _let_go(session: Session, job: Job, status: str, delay_s: float = 0.0) -> None:
    if status == "cancelled":
        _end(session, job, status)
        return
    job.owner = None
    job.lease_until = None
    set_status(session, job, status)
    if status == "queued":
        job.available_at = read_clock(session) + delay_s
        enqueue(session, job, job.available_at)


def _end(session: Session, job: Job, status: str) -> None:
    job.owner = None
    job.lease_until = None
    job.eta_s = None
    job.finished_at = read_clock(session)
    set_status(session, job, status)
    session.execute(delete(Outbox).where(Outbox.job_id == job.id))


def _is_stale(session: Session, job: Job, is_gone: Callable[[str], bool]) -> bool:
    return (
        job.lease_until is None
        or job.lease_until < read_clock(session)
        or (job.owner is not None and is_gone(job.owner))
    )


def sweep(session: Session, *, max_attempts: int, is_gone: Callable[[str], bool]) -> int:
    """Do the reaper's work: free jobs with a stale lease, end those past their deadline, and
    publish again the messages that no worker took.

    Returns the number of jobs changed.
    """
    changed = 0
    now = read_clock(session)
    unclaimed = and_(
        Job.status == "queued",
        Job.available_at < now,
        or_(Job.published_at.is_(None), Job.published_at < now - REPUBLISH_S),
    )
    overdue = and_(Job.status.in_(("queued", "paused")), Job.deadline_at < now)
    # The order keeps two sweeps at the same time from locking each other out.
    candidates = (
        select(Job.id).where(or_(Job.status.in_(HELD), overdue, unclaimed)).order_by(Job.id)
    )
    for id in session.scalars(candidates).all():
        job = lock_job(session, id)
        if job is None:
            continue
        if job.status in HELD and not is_parked(job) and _is_stale(session, job, is_gone):
            release(session, job, max_attempts=max_attempts)
        elif _is_overdue(job, now):
            job.error = build_deadline_error(job.stage, job.attempt)
            _end(session, job, "failed")
        elif _needs_message(session, job, now):
            enqueue(session, job, now)
        else:
            continue
        changed += 1
    return changed


def _is_overdue(job: Job, now: float) -> bool:
    """Return whether the deadline of a job that no worker holds has passed."""
    if job.deadline_at is None or job.deadline_at >= now:
        return False
    return is_parked(job) or job.status in ("queued", "paused")


def _needs_message(session: Session, job: Job, now: float) -> bool:
    """Return whether the job's message may have been lost: nothing else would start the job."""
    if job.status == "queued":
        return job.available_at < now and _is_due_again(job, now)
    return (
        is_parked(job)
        and job.updated_at < now - REPUBLISH_S
        and _is_due_again(job, now)
        and is_idle(session, job)
    )


def _is_due_again(job: Job, now: float) -> bool:
    """Return whether the job's message may be published once more.

    The wait doubles with every publication, up to an hour: a long queue floods no broker.
    """
    if job.published_at is None:
        return True
    wait_s = min(MAX_REPUBLISH_S, REPUBLISH_S * 2.0 ** (job.publishes - 1))
    return now - job.published_at > wait_s


def build_deadline_error(stage: str | None, attempt: int) -> dict[str, Any]:
    """Return the error of a job that ran past its deadline."""
    return {
        "code": "deadline_exceeded",
        "message": "the job did not end within its deadline_s",
        "stage": stage,
        "retryable": False,
        "attempt": attempt,
    }
