"""Datasets that are fetched by URL: which is due, and how a try ended.

A try takes a lease by moving `due_at` into the future. Its writes name the moment that it set: when
the lease has run out and another worker has taken it, or the dataset was deleted, they change
nothing and raise `LostError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import CursorResult, select, update
from sqlalchemy.orm import Session

from tasks.store.assets import read_clock
from tasks.store.claims import LostError
from tasks.store.engine import db_now
from tasks.store.tables import Dataset


@dataclass
class SourceClaim:
    """A dataset that this worker fetches, until `due_at`."""

    dataset: Dataset
    due_at: float


ANY_DUE = select(Dataset.id).where(Dataset.state == "fetching", Dataset.due_at <= db_now()).limit(1)
"""A dataset that is to be fetched now."""


def claim_source(session: Session, lease_s: float) -> SourceClaim | None:
    """Take the dataset that has been due for longest; None where none is due."""
    now = read_clock(session)
    row = session.scalar(
        select(Dataset)
        .where(Dataset.state == "fetching", Dataset.due_at <= now)
        .order_by(Dataset.due_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    if row is None:
        return None
    row.tries += 1
    row.due_at = now + lease_s
    session.flush()
    return SourceClaim(row, row.due_at)


def renew(session: Session, claim: SourceClaim, lease_s: float) -> None:
    """Hold the dataset for longer."""
    due_at = read_clock(session) + lease_s
    _write(session, claim, due_at=due_at)
    claim.due_at = due_at


def postpone(
    session: Session, claim: SourceClaim, delay_s: float, failure: dict[str, Any] | None
) -> None:
    """Try again after a delay; without a `failure` the try does not count."""
    values: dict[str, Any] = {"due_at": read_clock(session) + delay_s}
    if failure is None:
        values["tries"] = claim.dataset.tries - 1
    else:
        values["failure"] = failure
    _write(session, claim, **values)


def fail(session: Session, claim: SourceClaim, failure: dict[str, Any]) -> None:
    """End the fetching of a dataset for good."""
    _write(session, claim, state="failed", failure=failure, due_at=None)


def finish(session: Session, claim: SourceClaim, **contents: Any) -> None:
    """Write what the dataset turned out to be; it may be used from now on."""
    _write(session, claim, state="ready", failure=None, due_at=None, **contents)


def _write(session: Session, claim: SourceClaim, **values: Any) -> None:
    id = claim.dataset.id
    changed = session.execute(
        update(Dataset).where(Dataset.id == id, Dataset.due_at == claim.due_at).values(**values)
    )
    assert isinstance(changed, CursorResult)
    if changed.rowcount != 1:
        raise LostError(f"dataset {id}: deleted, or fetched by another worker")
