"""The queue as clients see it: the jobs that wait, in the order in which they are taken."""

from __future__ import annotations

from sqlalchemy import and_, func, or_, select, tuple_
from sqlalchemy.orm import Session

from tasks.store.tables import Job


def count_ahead(session: Session, job: Job) -> int:
    """Return how many queued jobs of the whole service are taken before this one: those of a higher
    priority, and those of the same that have waited longer.
    """
    earlier = tuple_(Job.available_at, Job.id) < tuple_(job.available_at, job.id)
    ahead = or_(Job.priority > job.priority, and_(Job.priority == job.priority, earlier))
    query = select(func.count()).where(Job.status == "queued", ahead)
    return session.scalar(query) or 0
