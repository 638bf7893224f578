"""Roles that one process holds at a time, such as that of the reaper and that of the relay."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import and_, delete, or_, select, update
from sqlalchemy.orm import Session

from tasks import owners
from tasks.store.assets import read_clock
from tasks.store.engine import db_now, insert_into
from tasks.store.tables import Leader


def lead(
    session: Session,
    role: str,
    owner: str,
    lease_s: float,
    is_gone: Callable[[str], bool] = owners.never_gone,
) -> bool:
    """Take or keep a role for `lease_s` seconds; return whether `owner` holds it now.

    One process at a time holds a role. A leader that `is_gone` knows to have died is replaced at
    once.
    """
    leader = session.scalar(select(Leader.owner).where(Leader.role == role))
    if leader is not None and leader != owner and is_gone(leader):
        session.execute(delete(Leader).where(Leader.role == role, Leader.owner == leader))
    renewed = session.execute(
        update(Leader)
        .where(and_(Leader.role == role, or_(Leader.owner == owner, Leader.lease_until < db_now())))
        .values(owner=owner, lease_until=db_now() + lease_s)
    )
    if renewed.rowcount == 1:  # type: ignore[attr-defined]
        return True
    first = insert_into(session, Leader).values(
        role=role, owner=owner, lease_until=read_clock(session) + lease_s
    )
    return session.scalar(first.on_conflict_do_nothing().returning(Leader.role)) is not None
