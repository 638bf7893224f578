"""Jobs as clients see them: create, read, list, and the transitions a client may ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, delete, select, update
from sqlalchemy.orm import Session, defer

from pruning.schemas.job import TERMINAL, runs_by_members
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
    JobPruned,
    JobShift,
    Outbox,
    ResultFile,
    StageFile,
)

PARKED = "members"
"""The owner of a family that waits for its members: it is running, and no worker holds it."""
UNDER_WAY = ("cancelling", "pausing", "queued")
"""The statuses of a job that is on its way to what a client asked for."""
MOST_URGENT = 9
TABLES_OF_A_JOB = (
    JobLabel,
    JobShift,
    JobPruned,
    Event,
    StageFile,
    ResultFile,
    Outbox,
    Idempotency,
    FamilyMember,
)
NOBODY = "none"
"""The `parent` of the jobs that are members of no family."""


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """The values that a job starts with."""

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
    pruned_ids: frozenset[str] = frozenset()
    """Models that the job judges beside its dense original."""


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """The jobs to list; a field that is None filters nothing."""

    status: str | None = None
    label: tuple[str, str] | None = None
    """The key and the value of a label that the job must have."""
    parent: str | None = None
    """The family whose members are listed; `NOBODY` lists the jobs that are no members."""
    kind: str | None = None
    """The `type` of the specs."""

    def apply(self, query: Select[Job]) -> Select[Job]:
        """Return the query, narrowed to the jobs that pass."""
        if self.status is not None:
            query = query.where(Job.status == self.status)
        if self.label is not None:
            key, value = self.label
            labelled = select(JobLabel.job_id).where(JobLabel.key == key, JobLabel.value == value)
            query = query.where(Job.id.in_(labelled))
        if self.kind is not None:
            query = query.where(Job.spec["type"].as_string() == self.kind)
        if self.parent == NOBODY:
            query = query.where(Job.id.not_in(select(FamilyMember.job_id)))
        elif self.parent is not None:
            members = select(FamilyMember.job_id).where(FamilyMember.family_id == self.parent)
            query = query.where(Job.id.in_(members))
        return query

    def to_scope(self) -> str:
        """Return a text that differs between filters, to tie a cursor to one of them."""
        label = "=".join(self.label) if self.label else ""
        return "/".join((self.status or "", label, self.parent or "", self.kind or ""))


EVERY_JOB = JobFilter()


def create(
    session: Session, new: NewJob, *, idempotency_key: str | None = None, request_sha256: str = ""
) -> tuple[Job, bool]:
    """Insert a job and its outbox row, or return the job that the idempotency key created before.

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
    session.add_all(JobShift(job_id=job.id, dataset_id=id) for id in sorted(new.shifted_ids))
    session.add_all(JobPruned(job_id=job.id, model_id=id) for id in sorted(new.pruned_ids))
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
    """Return the job of this project; raise `NotFoundError` if there is none."""
    job = session.get(Job, id)
    if job is None or job.project != project:
        raise NotFoundError("job", id)
    return job


def lock_job(session: Session, id: str) -> Job | None:
    """Return the job with its row locked until the transaction ends.

    SQLite locks the whole database when a write begins; on PostgreSQL others may meanwhile write
    rows that refer to this one, such as a member's message to its family.
    """
    return session.get(Job, id, with_for_update={"key_share": True}, populate_existing=True)


def read_page(
    session: Session,
    project: str,
    *,
    limit: int,
    cursor: str | None,
    filters: JobFilter = EVERY_JOB,
) -> Page[Job]:
    """Return one page of this project's jobs, newest first; their summaries are not read."""
    query = filters.apply(select(Job).where(Job.project == project).options(defer(Job.summary)))
    scope = f"jobs/{project}/{filters.to_scope()}"
    return paginate(session, query, Job.id, scope=scope, limit=limit, cursor=cursor)


def request(session: Session, project: str, id: str, verb: str) -> Job:
    """Start a transition: the verb is `cancel`, `pause`, `resume` or `retry`.

    Repeating one is harmless; an impossible one raises `TransitionError`.

    A member that is retried after its family has succeeded makes the family run again, which then
    writes a new report once the member has ended. Such a family can also be retried itself while
    one of its members has not succeeded.
    """
    get(session, project, id)
    # A family is older than its members, and rows are locked in the order of their ids.
    family = lock_family_of(session, id) if verb == "retry" else None
    job = lock_job(session, id)
    if job is None:
        raise NotFoundError("job", id)
    target = _TRANSITIONS[verb].get(job.status)
    if target is None and verb == "retry" and is_parent(job) and _is_incomplete(session, job):
        target = "queued"
    if target is None:
        raise TransitionError(id, job.status, verb)
    if target == job.status:
        return job
    if is_parked(job):  # no worker holds it and would have to let go first
        target = {"cancelling": "cancelled", "pausing": "paused"}.get(target, target)
        job.owner = None
    now = read_clock(session)
    if target == "queued":
        _run_again(session, job, verb, now)
        session.execute(
            update(FamilyMember).where(FamilyMember.job_id == id).values(asked_at=now, seen=None)
        )
        if family is not None and family.status == "succeeded":
            _run_again(session, family, verb, now)
            set_status(session, family, "queued")
    if target == "cancelled":
        job.finished_at = now
    set_status(session, job, target)
    return job


def _run_again(session: Session, job: Job, verb: str, now: float) -> None:
    """Put a job in the queue with its first attempt; the caller sets the status.

    A retry begins a new deadline. A job that is resumed keeps its own, which goes on in a pause.
    """
    job.available_at = now
    job.attempt = 1
    job.error = None
    job.finished_at = None
    deadline_s = job.spec.get("deadline_s")
    if verb == "retry" and deadline_s is not None:
        job.deadline_at = now + deadline_s
    enqueue(session, job, now)


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
    """Set the status, and add a `status` event with `data`.

    A member that reaches a final status queues its family, where that is parked.
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


def is_parent(job: Job) -> bool:
    """Return whether the job is run by members: a family, or a pruning job with replicates."""
    return isinstance(job.spec, dict) and runs_by_members(job.spec)


def is_parked(job: Job) -> bool:
    """Return whether the job is a family that waits for its members."""
    return job.status == "running" and job.owner == PARKED


def lock_family_of(session: Session, id: str) -> Job | None:
    """Return the family that the job is a member of, with its row locked as by `lock_job`."""
    family = session.scalar(select(FamilyMember.family_id).where(FamilyMember.job_id == id))
    return None if family is None else lock_job(session, family)


def _is_incomplete(session: Session, family: Job) -> bool:
    """Return whether the family has succeeded although one of its members has not."""
    unsuccessful = (
        select(Job.id)
        .join(FamilyMember, FamilyMember.job_id == Job.id)
        .where(FamilyMember.family_id == family.id, Job.status != "succeeded")
    )
    return family.status == "succeeded" and session.scalar(unsuccessful.limit(1)) is not None


def has_turn_due(session: Session, family: Job) -> bool:
    """Return whether a parked family has a turn to take.

    It has when a member has ended that no turn has seen, or when no member is left that would wake
    it. However many of its messages are on their way, one turn is taken for all that have ended.
    """
    rows = session.execute(
        select(Job.status, FamilyMember.seen)
        .join(FamilyMember, FamilyMember.job_id == Job.id)
        .where(FamilyMember.family_id == family.id)
    ).all()
    ended = [(status, known_status) for status, known_status in rows if status in TERMINAL]
    has_news = any(status != known_status for status, known_status in ended)
    return has_news or len(ended) == len(rows)


def is_idle(session: Session, family: Job) -> bool:
    """Return whether no member of the family is live, so that none will wake it."""
    live = (
        select(Job.id)
        .join(FamilyMember, FamilyMember.job_id == Job.id)
        .where(FamilyMember.family_id == family.id, Job.status.not_in(TERMINAL))
    )
    return session.scalar(live.limit(1)) is None


def enqueue(session: Session, job: Job, due_at: float) -> None:
    """Leave a message in the outbox; one that waits there already becomes due by `due_at`.

    A family's turns are short and its members wait for what they decide, so they go before other
    jobs of the same priority.
    """
    waiting = session.scalar(select(Outbox).where(Outbox.job_id == job.id).limit(1))
    if waiting is None:
        priority = min(MOST_URGENT, job.priority + 1) if is_parent(job) else job.priority
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
    """Return the rows of the history with `seq > after`, in order."""
    query = (
        select(Event)
        .where(Event.job_id == job_id, Event.seq > after)
        .order_by(Event.seq)
        .limit(limit)
    )
    return list(session.scalars(query))


def list_result_files(session: Session, job_id: str) -> list[ResultFile]:
    """Return every downloadable file of the job, by checkpoint and format."""
    query = select(ResultFile).where(ResultFile.job_id == job_id)
    return list(session.scalars(query.order_by(ResultFile.checkpoint, ResultFile.format)))


def list_stage_files(session: Session, job_id: str) -> list[StageFile]:
    """Return every saved stage of the job."""
    return list(session.scalars(select(StageFile).where(StageFile.job_id == job_id)))


def remove(session: Session, project: str, id: str) -> list[str]:
    """Delete a job that has ended, with its history, its rows and the members of a family.

    Returns the ids of the deleted jobs. Raises `InUseError` while the job, one of its members, or
    the family that it belongs to is live.
    """
    job = get(session, project, id)
    family = session.scalar(select(FamilyMember.family_id).where(FamilyMember.job_id == id))
    members = session.scalars(select(FamilyMember.job_id).where(FamilyMember.family_id == id)).all()
    related = [id, *members]
    if family is not None:
        related.append(family)
    live = session.scalar(
        select(Job.id).where(Job.id.in_(related), Job.status.not_in(TERMINAL)).limit(1)
    )
    if live is not None:
        raise InUseError("job", id, live)
    deleted = [*members, id]
    for table in TABLES_OF_A_JOB:
        session.execute(delete(table).where(table.job_id.in_(deleted)))
    session.execute(delete(Job).where(Job.id.in_(members)))
    session.delete(job)
    return deleted
