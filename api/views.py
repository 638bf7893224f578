"""Jobs as clients see them, with what their family or their members add."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.orm import Session

from api.schemas.jobs import JobView
from tasks.store import assets, families, jobs
from tasks.store.tables import Job


def build_views(session: Session, rows: Sequence[Job]) -> list[JobView]:
    """The wire form of the rows: a member says of which family, a family's progress is that of its
    members together.
    """
    belonging = families.find_memberships(session, [row.id for row in rows])
    grown = families.sum_progress(session, [row.id for row in rows if jobs.is_family(row)])
    now = assets.read_clock(session) if grown else 0.0
    return [JobView.from_row(row, belonging.get(row.id), grown.get(row.id), now) for row in rows]


def build_view(session: Session, row: Job) -> JobView:
    """The wire form of one row."""
    return build_views(session, [row])[0]
