"""Jobs as clients see them: the row of a job, with what its family or its members add."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.orm import Session

from api.schemas.jobs import JobView
from tasks.store import assets, families, jobs
from tasks.store.tables import Job
from tasks.store.waiting import count_ahead


def build_views(session: Session, rows: Sequence[Job]) -> list[JobView]:
    """Return the wire form of the rows.

    A member names its family; the progress of a family is that of its members together.
    """
    memberships = families.find_memberships(session, [row.id for row in rows])
    family_ids = [row.id for row in rows if jobs.is_parent(row)]
    progress = families.sum_progress(session, family_ids)
    now = assets.read_clock(session) if progress else 0.0
    return [
        JobView.from_row(row, memberships.get(row.id), progress.get(row.id), now) for row in rows
    ]


def build_view(session: Session, row: Job) -> JobView:
    """Return the wire form of one row, with its place in the queue."""
    view = build_views(session, [row])[0]
    if row.status != "queued":
        return view
    return view.model_copy(update={"queue_position": 1 + count_ahead(session, row)})
