"""The history of a job on the wire: rows, and what each kind of row tells."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from api.schemas.members import MemberView
from api.schemas.times import Time, to_iso
from pruning.schemas.described import DescribedBy
from pruning.schemas.job import Stage, Status
from tasks.store.tables import Event


class StatusChange(BaseModel):
    """The job has a new status."""

    status: Status
    attempt: int | None = None
    """The number of the attempt, where the job begins to run."""


class StageStart(BaseModel):
    """A stage begins."""

    stage: Stage


class ProgressMade(BaseModel):
    """The work done and all work, in the units of the job's progress."""

    done: float
    total: float
    eta_s: float | None
    """The seconds that the rest should take."""


class AttemptLost(BaseModel):
    """An attempt ended without a result, and another one may follow."""

    attempt: int
    reason: str


class WarningGiven(BaseModel):
    """Something that the user should know."""

    message: str


class CheckpointReached(BaseModel):
    """A target was reached."""

    id: str
    sparsity: float
    error: float
    """The error on the test images."""


class MemberChange(MemberView):
    """A member of a family was started, or has ended."""

    job: str
    status: Status


class EventRow(BaseModel):
    """The fields that rows of every kind have."""

    seq: int
    at: Time


class StatusEvent(EventRow):
    """A row of type `status`."""

    type: Literal["status"]
    data: StatusChange


class StageEvent(EventRow):
    """A row of type `stage`."""

    type: Literal["stage"]
    data: StageStart


class ProgressEvent(EventRow):
    """A row of type `progress`."""

    type: Literal["progress"]
    data: ProgressMade


class AttemptEvent(EventRow):
    """A row of type `attempt`."""

    type: Literal["attempt"]
    data: AttemptLost


class WarningEvent(EventRow):
    """A row of type `warning`."""

    type: Literal["warning"]
    data: WarningGiven


class CheckpointEvent(EventRow):
    """A row of type `checkpoint`."""

    type: Literal["checkpoint"]
    data: CheckpointReached


class MemberEvent(EventRow):
    """A row of type `member`."""

    type: Literal["member"]
    data: MemberChange


AnyEvent = Annotated[
    StatusEvent
    | StageEvent
    | ProgressEvent
    | AttemptEvent
    | WarningEvent
    | CheckpointEvent
    | MemberEvent,
    Field(discriminator="type"),
]


class EventView(BaseModel):
    """A row of a job's history, as it was stored."""

    seq: int
    at: Time
    type: str
    data: dict[str, Any]

    @classmethod
    def from_row(cls, row: Event) -> EventView:
        """Return the wire form of a row."""
        return cls(seq=row.seq, at=to_iso(row.at), type=row.type, data=row.data)


class EventPage(BaseModel):
    """Rows in order; the next page begins with `after` = the last `seq`."""

    data: list[Annotated[EventView, DescribedBy(AnyEvent)]]
    has_more: bool
