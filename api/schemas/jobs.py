"""Jobs, their events and their results on the wire."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from api.schemas.members import MemberView, ReplicateView
from api.schemas.predictions import Foreseen
from api.schemas.times import Time, to_iso, to_iso_or_none
from api.schemas.wall_times import WallTime
from pruning.schemas.described import DescribedBy
from pruning.schemas.evaluate import EvaluateSpec
from pruning.schemas.family import FamilySpec
from pruning.schemas.job import TERMINAL, JobSpec, Status, runs_by_members
from pruning.schemas.preprocessing import PlannedPreprocessing
from pruning.schemas.recipe import Recipe
from tasks.store.families import MemberProgress
from tasks.store.tables import FamilyMember, Job

StoredSpec = Annotated[dict[str, Any], DescribedBy(JobSpec | FamilySpec | EvaluateSpec)]


class MemberCount(BaseModel):
    """The numbers of a family's members that have ended, are paused, and exist."""

    ended: int
    paused: int
    total: int


class Progress(BaseModel):
    """The work done and all work, in units that take about the same time."""

    done: float
    total: float
    eta_s: float | None
    members: MemberCount | None = None
    """The members of a family, or the replicates of a job; `null` for other jobs."""


class JobError(BaseModel):
    """The reason why a job failed."""

    code: str
    message: str
    stage: str | None = None
    retryable: bool = False
    attempt: int | None = None


class JobLinks(BaseModel):
    """The addresses of a job and of what belongs to it."""

    self: str
    events: str
    results: str
    report: str
    cancel: str
    members: str | None = None
    """The list of the jobs of a family's members, or of a job's replicates; `null` for other
    jobs.
    """
    parent: str | None = None
    """The family of a member, or the job of a replicate; `null` for other jobs."""


class JobView(BaseModel):
    """A job as clients see it."""

    id: str
    type: str
    status: Status
    stage: str | None
    terminal: bool
    """Whether the status is final; clients that poll decide by it."""
    progress: Progress
    queue_position: int | None = None
    """The place of a job that is queued, 1 for the next that a worker takes; `null` in lists and
    for other jobs.
    """
    attempt: int
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    parent: str | None = None
    """The family that the job is a member of, or the job that it is a replicate of."""
    member: Annotated[dict[str, Any] | None, DescribedBy(MemberView | ReplicateView | None)] = None
    """The place of the job in that family, or among the replicates."""
    spec: StoredSpec
    """The job as it was submitted."""
    error: JobError | None
    links: JobLinks

    @classmethod
    def from_row(
        cls,
        row: Job,
        member: FamilyMember | None = None,
        family_progress: MemberProgress | None = None,
        now: float = 0.0,
    ) -> JobView:
        """Return the wire form of a row.

        The spec was validated when the job came, and is shown whatever it holds now.
        `family_progress` is that of a family's members, `now` the time by the database's clock.
        """
        spec = row.spec if isinstance(row.spec, dict) else {}
        kind = str(spec.get("type", "unknown"))
        return cls.model_validate(
            {
                "id": row.id,
                "type": kind,
                "status": row.status,
                "stage": row.stage,
                "terminal": row.status in TERMINAL,
                "attempt": row.attempt,
                "spec": spec,
                "error": row.error,
                "progress": _build_progress(row, family_progress, now),
                "parent": None if member is None else member.family_id,
                "member": None if member is None else member.member,
                "created_at": to_iso(row.created_at),
                "started_at": to_iso_or_none(row.started_at),
                "finished_at": to_iso_or_none(row.finished_at),
                "links": _build_links(row.id, member, is_parent=runs_by_members(spec)),
            }
        )


def _build_links(id: str, member: FamilyMember | None, *, is_parent: bool) -> dict[str, str]:
    """Return the addresses of a job, with those of its members or of its family."""
    path = f"/v1/jobs/{id}"
    links = {"self": path}
    for name in ("events", "results", "report", "cancel"):
        links[name] = f"{path}/{name}"
    if is_parent:
        links["members"] = f"/v1/jobs?parent={id}"
    if member is not None:
        links["parent"] = f"/v1/jobs/{member.family_id}"
    return links


def _build_progress(row: Job, family_progress: MemberProgress | None, now: float) -> dict[str, Any]:
    if family_progress is None:
        return {"done": row.progress_done, "total": row.progress_total, "eta_s": row.eta_s}
    done = family_progress.done
    total = family_progress.total
    if row.status not in TERMINAL:  # more members may still be started
        total = max(total, row.progress_total)
    elapsed_s = now - (row.started_at or now) if row.status == "running" else 0.0
    return {
        "done": done,
        "total": total,
        "members": {
            "ended": family_progress.ended,
            "paused": family_progress.paused,
            "total": family_progress.members,
        },
        "eta_s": round(elapsed_s * (total - done) / done) if elapsed_s and done else None,
    }


class JobPage(BaseModel):
    """Jobs, newest first."""

    data: list[JobView]
    has_more: bool
    next_cursor: str | None


class CriterionReach(BaseModel):
    """The least that a criterion can leave of what budgets are told in."""

    criterion: str
    least: int
    """The closest to nothing that can be reached, with what has to stay."""
    share: float
    """The same as a share of what the dense network has."""


class Reach(BaseModel):
    """The range of budgets that can be reached: from the least of a criterion to below `dense`."""

    quantity: str
    """The quantity of the budgets: `flops`, `parameters` or `size_bytes`."""
    dense: int
    """The amount that the dense network has."""
    criteria: list[CriterionReach]
    """Empty for a network that is too large to be rehearsed: there the job finds out."""


class JobEstimate(BaseModel):
    """The cost of a job."""

    rounds: int
    steps: int
    flops: float
    memory_bytes: int
    units: float
    """The total of the job's progress, in forward passes of one image."""
    parts: dict[str, float] = {}
    """The units by what they are for: `training`, `scoring`, `measuring`, `batchnorm`, `losses` on
    training images, and `evaluations`.
    """
    evaluations: dict[str, float] = {}
    """The part of the units that each evaluation takes; 0 for one that only reads what is measured
    anyway. Evaluations that share a measurement are counted as if each were alone.
    """
    wall_times: list[WallTime] = []
    """The time that the job should take once it runs, on each kind of machine that ran jobs of the
    project; empty where none has, and for families and replicates.
    """
    reach: Reach | None = Field(default=None, exclude_if=lambda reach: reach is None)
    """The range that budgets can reach; left out where the targets are sparsities."""
    warnings: list[str] = []


class Validation(BaseModel):
    """A job that would be accepted."""

    valid: bool
    estimate: JobEstimate
    recipe: Annotated[dict[str, Any], DescribedBy(Recipe | FamilySpec | EvaluateSpec)]
    """The job with every default written in."""
    spec: StoredSpec
    """The job as it would be stored, with the fields that a preset fills in."""
    preprocessing: PlannedPreprocessing | None = None
    """The change of size and the normalisation that the job's images would have."""
    foreseen: list[Foreseen] = []
    """The forecasts of the targets, by the laws of the project's earlier jobs of this network and
    dataset.
    """
