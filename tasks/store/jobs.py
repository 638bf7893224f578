"""Jobs as clients see them: create, read, list, and the transitions a client may ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from tasks.store.assets import read_clock
from tasks.store.engine import new_id
from tasks.store.errors import IdempotencyError, InUseError, NotFoundError, TransitionError
from tasks.store.pages import Page, paginate
from tasks.store.tables import (
    Event,
    FamilyMember,
    Idempotency,
    Job,
    JobLabel,
    JobShift,
    Outbox,
    ResultFile,
    StageFile,
)

TERMINAL = ("succeeded", "failed", "cancelled")
PARKED = "members"
"""The owner of a family that waits for its members: running, and held by nobody."""
UNDER_WAY = ("cancelling", "pausing", "queued")
"""Where a job is on its way to what was asked of it."""
MOST_URGENT = 9
NOBODY = "none"


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """What a job starts with."""

    project: str
    spec: dict[str, Any]
    model_id: str | None
    rewind_model_id: str | None
    dataset_id: str | None
    priority: int
    deadline_s: float | None
    labels: dict[str, str]
    progress_total: float = 0.0
    shifted_ids: frozenset[str] = frozenset()
    """Datasets of shifted images beside the job's own."""


def create(
    session: Session, new: NewJob, *, idempotency_key: str | None = None, request_sha256: str = ""
) -> tuple[Job, bool]:
    """Insert job and outbox row in one transaction; with a known idempotency key return the first
    job instead.

    Returns the job and whether it was created now. Raises `IdempotencyError` when the key came with
    another request.
    """
    if idempotency_key is not None:
        known = session.get(Idempotency, (new.project, idempotency_key))
        if known is not None:
            if known.request_sha256 != request_sha256:
                raise IdempotencyError(
                    f"the Idempotency-Key {idempotency_key!r} was used with another request"
                )
            return get(session, new.project, known.job_id), False
    at = read_clock(session)
    job = Job(
        id=new_id("job"),
        project=new.project,
        status="queued",
        spec=new.spec,
        model_id=new.model_id,
        rewind_model_id=new.rewind_model_id,
        dataset_id=new.dataset_id,
        priority=new.priority,
        available_at=at,
        progress_total=new.progress_total,
        created_at=at,
        updated_at=at,
        deadline_at=None if new.deadline_s is None else at + new.deadline_s,
    )
    session.add(job)
    session.flush()
    session.add_all(
        JobShift(job_id=job.id, dataset_id=dataset_id) for dataset_id in sorted(new.shifted_ids)
    )
    session.add_all(
        JobLabel(job_id=job.id, key=key, value=value) for key, value in new.labels.items()
    )
    if idempotency_key is not None:
        session.add(
            Idempotency(
                project=new.project,
                key=idempotency_key,
                request_sha256=request_sha256,
                job_id=job.id,
                created_at=at,
            )
        )
    add_event(session, job, "status", {"status": "queued"})
    enqueue(session, job, at)
    session.flush()
    return job, True


def get(session: Session, project: str, id: str) -> Job:
    """The job of this project, or `NotFoundError`."""
    job = session.get(Job, id)
    if job is None or job.project != project:
        raise NotFoundError("job", id)
    return job


def lock_job(session: Session, id: str) -> Job | None:
    """The job, its row locked until the transaction ends (SQLite locks the database when a write
    begins).

    Rows that refer to it, as a member's message to its family does, may be written by others
    meanwhile.
    """
    return session.get(Job, id, with_for_update={"key_share": True}, populate_existing=True)


def read_page(
    session: Session,
    project: str,
    *,
    limit: int,
    cursor: str | None,
    status: str | None = None,
    label: tuple[str, str] | None = None,
    parent: str | None = None,
    kind: str | None = None,
) -> Page[Job]:
    """One page of this project's jobs, newest first; of a family's members, or of nobody's with
    `parent` NOBODY.

    `kind` is the `type` of their specs.
    """
    query = select(Job).where(Job.project == project)
    if status is not None:
        query = query.where(Job.status == status)
    if label is not None:
        query = query.where(
            Job.id.in_(
                select(JobLabel.job_id).where(JobLabel.key == label[0], JobLabel.value == label[1])
            )
        )
    if kind is not None:
        query = query.where(Job.spec["type"].as_string() == kind)
    if parent == NOBODY:
        query = query.where(Job.id.not_in(select(FamilyMember.job_id)))
    elif parent is not None:
        query = query.where(
            Job.id.in_(select(FamilyMember.job_id).where(FamilyMember.family_id == parent))
        )
    scope = f"jobs/{project}/{status or ''}/{'='.join(label) if label else ''}/{parent or ''}/{kind or ''}"
    return paginate(session, query, Job.id, scope=scope, limit=limit, cursor=cursor)


def request(session: Session, project: str, id: str, verb: str) -> Job:
    """`cancel`, `pause`, `resume` or `retry`; repeating one is harmless, an impossible one raises
    `TransitionError`.

    A member that is retried after its family has succeeded has the family run again, which reports
    anew once it has ended. Such a family can be retried itself while a member of it has not
    succeeded.
    """
    get(session, project, id)
    family = (
        lock_family_of(session, id) if verb == "retry" else None
    )  # older than its member: locked before it
    job = lock_job(session, id)
    if job is None:
        raise NotFoundError("job", id)
    target = _TRANSITIONS[verb].get(job.status)
    if target is None and verb == "retry" and is_family(job) and _is_incomplete(session, job):
        target = "queued"
    if target is None:
        raise TransitionError(id, job.status, verb)
    if target == job.status:
        return job
    if is_parked(job):  # nobody holds it who would have to let go first
        target, job.owner = (
            {"cancelling": "cancelled", "pausing": "paused"}.get(target, target),
            None,
        )
    at = read_clock(session)
    if target == "queued":
        _run_again(session, job, verb, at)
        session.execute(
            update(FamilyMember).where(FamilyMember.job_id == id).values(asked_at=at, seen=None)
        )
        if family is not None and family.status == "succeeded":
            _run_again(session, family, verb, at)
            set_status(session, family, "queued")
    if target == "cancelled":
        job.finished_at = at
    set_status(session, job, target)
    return job


def _run_again(session: Session, job: Job, verb: str, at: float) -> None:
    job.available_at, job.attempt = at, 1
    job.error, job.finished_at = None, None
    deadline_s = job.spec.get("deadline_s")
    job.deadline_at = job.deadline_at if verb != "retry" or deadline_s is None else at + deadline_s
    enqueue(session, job, at)


_TRANSITIONS: dict[str, dict[str, str]] = {
    "cancel": {
        "queued": "cancelled",
        "paused": "cancelled",
        "running": "cancelling",
        "pausing": "cancelling",
        "cancelling": "cancelling",
        "cancelled": "cancelled",
    },
    "pause": {"running": "pausing", "queued": "paused", "pausing": "pausing", "paused": "paused"},
    "resume": {"paused": "queued", "queued": "queued", "running": "running"},
    "retry": {"failed": "queued", "cancelled": "queued", "queued": "queued", "running": "running"},
}


def set_status(session: Session, job: Job, status: str, **data: Any) -> None:
    """Change the status and write it into the history; a family hears when one of its members has
    ended.
    """
    job.status = status
    job.updated_at = read_clock(session)
    add_event(session, job, "status", {"status": status, **data})
    if status in TERMINAL:
        family = session.scalar(
            select(Job)
            .join(FamilyMember, FamilyMember.family_id == Job.id)
            .where(FamilyMember.job_id == job.id, Job.status == "running")
        )
        if family is not None:
            enqueue(session, family, job.updated_at)


def is_family(job: Job) -> bool:
    """Whether the job is a family; its spec was validated when it came, and is asked whatever it
    holds now.
    """
    return isinstance(job.spec, dict) and job.spec.get("type") == "family"


def is_parked(job: Job) -> bool:
    """Whether the job is a family that waits for its members."""
    return job.status == "running" and job.owner == PARKED


def lock_family_of(session: Session, id: str) -> Job | None:
    """The family that the job is a member of, its row locked as `locked` does."""
    family = session.scalar(select(FamilyMember.family_id).where(FamilyMember.job_id == id))
    return None if family is None else lock_job(session, family)


def _is_incomplete(session: Session, family: Job) -> bool:
    """Whether the family has succeeded without one of its members."""
    short = (
        select(Job.id)
        .join(FamilyMember, FamilyMember.job_id == Job.id)
        .where(FamilyMember.family_id == family.id, Job.status != "succeeded")
    )
    return family.status == "succeeded" and session.scalar(short.limit(1)) is not None


def has_turn_due(session: Session, family: Job) -> bool:
    """Whether a parked family has a turn to take: a member has ended and no turn has seen it, or
    nobody is left to wake it.

    However many of its messages are on their way, one turn is taken for all that have ended.
    """
    rows = session.execute(
        select(Job.status, FamilyMember.seen)
        .join(FamilyMember, FamilyMember.job_id == Job.id)
        .where(FamilyMember.family_id == family.id)
    ).all()
    ended = [status != seen for status, seen in rows if status in TERMINAL]
    return any(ended) or len(ended) == len(rows)


def is_idle(session: Session, family: Job) -> bool:
    """Whether no member of the family is live, so that nobody will wake it."""
    live = (
        select(Job.id)
        .join(FamilyMember, FamilyMember.job_id == Job.id)
        .where(FamilyMember.family_id == family.id, Job.status.not_in(TERMINAL))
    )
    return session.scalar(live.limit(1)) is None


def enqueue(session: Session, job: Job, due_at: float) -> None:
    """Leave a message in the outbox; one that is waiting already becomes due no later than that.

    A family's turns are short, and its members wait for what they decide: they go before jobs of
    the same priority.
    """
    waiting = session.scalar(select(Outbox).where(Outbox.job_id == job.id).limit(1))
    if waiting is None:
        priority = min(MOST_URGENT, job.priority + 1) if is_family(job) else job.priority
        session.add(Outbox(job_id=job.id, priority=priority, due_at=due_at))
    else:
        waiting.due_at = min(waiting.due_at, due_at)


def add_event(session: Session, job: Job, type: str, data: dict[str, Any]) -> None:
    """Append to the job's history; call with the job's row locked or new."""
    job.event_seq = (job.event_seq or 0) + 1
    session.add(
        Event(job_id=job.id, seq=job.event_seq, at=read_clock(session), type=type, data=data)
    )


def list_events(session: Session, job_id: str, *, after: int, limit: int) -> list[Event]:
    """The rows of the history with `seq > after`, in order."""
    query = (
        select(Event)
        .where(Event.job_id == job_id, Event.seq > after)
        .order_by(Event.seq)
        .limit(limit)
    )
    return list(session.scalars(query))


def list_result_files(session: Session, job_id: str) -> list[ResultFile]:
    """Every downloadable file of the job, ordered."""
    query = select(ResultFile).where(ResultFile.job_id == job_id)
    return list(session.scalars(query.order_by(ResultFile.checkpoint, ResultFile.format)))


def list_shifted_ids(spec: dict[str, Any]) -> list[str]:
    """The datasets of shifted images that a job was submitted with, in its order."""
    return [one["id"] for one in spec["dataset"].get("shifted", ())]


def list_stage_files(session: Session, job_id: str) -> list[StageFile]:
    """Every saved stage of the job."""
    return list(session.scalars(select(StageFile).where(StageFile.job_id == job_id)))


def remove(session: Session, project: str, id: str) -> list[str]:
    """Delete a job that has ended, its history and its rows, a family's members too; returns the
    ids of what went.

    `InUseError` while it is live, or one of its members, or the family that it belongs to.
    """
    job = get(session, project, id)
    family = session.scalar(select(FamilyMember.family_id).where(FamilyMember.job_id == id))
    members = session.scalars(select(FamilyMember.job_id).where(FamilyMember.family_id == id)).all()
    users = [id, *members, *([family] if family is not None else [])]
    live = session.scalar(
        select(Job.id).where(Job.id.in_(users), Job.status.not_in(TERMINAL)).limit(1)
    )
    if live is not None:
        raise InUseError("job", id, live)
    gone = [*members, id]
    for table in (
        JobLabel,
        JobShift,
        Event,
        StageFile,
        ResultFile,
        Outbox,
        Idempotency,
        FamilyMember,
    ):
        session.execute(delete(table).where(table.job_id.in_(gone)))
    session.execute(delete(Job).where(Job.id.in_(members)))
    session.delete(job)
    return gone
