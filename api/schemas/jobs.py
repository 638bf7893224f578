"""Jobs, their events and their results on the wire."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from api.schemas.predictions import Foreseen
from api.schemas.times import to_iso, to_iso_or_none
from pruning.schemas.job import TERMINAL, Status
from tasks.store.families import MemberProgress
from tasks.store.tables import Event, FamilyMember, Job


class MemberCount(BaseModel):
    """How far the members of a family are."""

    ended: int
    paused: int
    total: int


class Progress(BaseModel):
    """Work done of all work, in units that pass at about the same speed."""

    done: float
    total: float
    eta_s: float | None
    members: MemberCount | None = None
    """Of a family."""


class JobError(BaseModel):
    """Why a job failed."""

    code: str
    message: str
    stage: str | None = None
    retryable: bool = False
    attempt: int | None = None


class JobLinks(BaseModel):
    """Where to go from a job."""

    self: str
    events: str
    results: str
    report: str
    cancel: str
    members: str | None = None
    """Of a family: the list of its members' jobs."""
    parent: str | None = None
    """Of a member: its family."""


class JobView(BaseModel):
    """A job as clients see it."""

    id: str
    type: str
    status: Status
    stage: str | None
    terminal: bool
    """Whether the status is final; pollers decide by it."""
    progress: Progress
    attempt: int
    created_at: str
    started_at: str | None
    finished_at: str | None
    parent: str | None = None
    """The family that the job is a member of."""
    member: dict[str, Any] | None = None
    """Which member: role (`member`, or `answer` for a network that the law chose), depth, width,
    fraction, seed, rounds.
    """
    spec: dict[str, Any]
    """As submitted."""
    error: JobError | None
    links: JobLinks

    @classmethod
    def from_row(
        cls,
        row: Job,
        member: FamilyMember | None = None,
        grown: MemberProgress | None = None,
        now: float = 0.0,
    ) -> JobView:
        """The wire form of a row; its spec was validated when it came and is shown whatever it
        holds now.

        `grown`: of a family, how far its members are. `now` is by the database's clock.
        """
        spec = row.spec if isinstance(row.spec, dict) else {}
        here = f"/v1/jobs/{row.id}"
        links = {
            "self": here,
            **{name: f"{here}/{name}" for name in ("events", "results", "report", "cancel")},
        }
        if spec.get("type") == "family":
            links["members"] = f"/v1/jobs?parent={row.id}"
        if member is not None:
            links["parent"] = f"/v1/jobs/{member.family_id}"
        progress: dict[str, Any] = {
            "done": row.progress_done,
            "total": row.progress_total,
            "eta_s": row.eta_s,
        }
        if grown is not None:
            done, total = (
                grown.done,
                grown.total if row.status in TERMINAL else max(grown.total, row.progress_total),
            )
            since = now - (row.started_at or now) if row.status == "running" else 0.0
            progress = {
                "done": done,
                "total": total,
                "members": {"ended": grown.ended, "paused": grown.paused, "total": grown.members},
                "eta_s": round(since * (total - done) / done) if since and done else None,
            }
        return cls.model_validate(
            {
                "id": row.id,
                "type": str(spec.get("type", "unknown")),
                "status": row.status,
                "stage": row.stage,
                "terminal": row.status in TERMINAL,
                "attempt": row.attempt,
                "spec": spec,
                "error": row.error,
                "progress": progress,
                "parent": None if member is None else member.family_id,
                "member": None if member is None else member.member,
                "created_at": to_iso(row.created_at),
                "started_at": to_iso_or_none(row.started_at),
                "finished_at": to_iso_or_none(row.finished_at),
                "links": links,
            }
        )


class JobPage(BaseModel):
    """Jobs, newest first."""

    data: list[JobView]
    has_more: bool
    next_cursor: str | None


class Estimate(BaseModel):
    """What a job will cost."""

    rounds: int
    steps: int
    flops: float
    memory_bytes: int
    units: float
    """The total of the job's progress, in forward passes of one image."""
    evaluations: dict[str, float] = {}
    """By evaluation, its part of the units; 0 where it only reads what is measured anyway. Those
    that share what they measure are counted as if each were alone.
    """
    warnings: list[str] = []


class Validation(BaseModel):
    """A job that would be accepted."""

    valid: bool
    estimate: Estimate
    recipe: dict[str, Any]
    """Every default written in."""
    spec: dict[str, Any]
    """The job as it would be kept: what a preset fills in is written out."""
    foreseen: list[Foreseen] = []
    """What the laws of the project's earlier jobs of this network and dataset say of the targets.
    """


class EventView(BaseModel):
    """One row of a job's history."""

    seq: int
    at: str
    type: str
    data: dict[str, Any]

    @classmethod
    def from_row(cls, row: Event) -> EventView:
        """The wire form of a row."""
        return cls(seq=row.seq, at=to_iso(row.at), type=row.type, data=row.data)


class EventPage(BaseModel):
    """Rows in order; go on with `after` = the last `seq`."""

    data: list[EventView]
    has_more: bool
