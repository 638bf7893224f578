"""The outbox: messages that were committed with a job and are still to be published."""

from __future__ import annotations

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from tasks.store.engine import db_now
from tasks.store.tables import Job, Outbox


def list_due_messages(session: Session, limit: int = 100) -> list[Outbox]:
    """Return the outbox rows that may be published now, oldest first."""
    query = select(Outbox).where(Outbox.due_at <= db_now()).order_by(Outbox.id).limit(limit)
    return list(session.scalars(query))


def mark_published(session: Session, message: Outbox) -> None:
    """Remove a message that has reached the broker, and remember when it did."""
    session.execute(
        update(Job)
        .where(Job.id == message.job_id)
        .values(published_at=db_now(), publishes=Job.publishes + 1)
    )
    session.execute(delete(Outbox).where(Outbox.id == message.id))


def read_wait(session: Session) -> float | None:
    """Return the seconds until the next message is due, at least 0; None where there is none."""
    wait_s = session.scalar(select(func.min(Outbox.due_at) - db_now()))
    return None if wait_s is None else max(0.0, wait_s)
