"""Models, datasets, API keys and the catalogue."""

from __future__ import annotations

import hashlib
import json
from typing import Any, TypeVar

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from tasks.store.engine import db_now, insert_into
from tasks.store.errors import InUseError, NotFoundError
from tasks.store.pages import Page, paginate
from tasks.store.tables import ApiKey, Catalogue, Dataset, Job, JobPruned, JobShift, Model

Asset = TypeVar("Asset", Model, Dataset)
LIVE = ("queued", "running", "pausing", "paused", "cancelling")


def add(session: Session, row: Asset) -> Asset:
    """Insert a model or a dataset; `created_at` is set by the database's clock."""
    row.created_at = read_clock(session)
    session.add(row)
    session.flush()
    return row


def read_clock(session: Session) -> float:
    """Return the time by the database's clock."""
    return float(session.scalar(select(db_now())) or 0.0)


def get(session: Session, kind: type[Asset], project: str, id: str) -> Asset:
    """Return the row of this project; raise `NotFoundError` if there is none."""
    row = session.get(kind, id)
    if row is None or row.project != project:
        raise NotFoundError(kind.NOUN, id)
    return row


def read_page(
    session: Session, kind: type[Asset], project: str, *, limit: int, cursor: str | None
) -> Page[Asset]:
    """Return one page of this project's models or datasets."""
    query = select(kind).where(kind.project == project)
    return paginate(
        session, query, kind.id, scope=f"{kind.__tablename__}/{project}", limit=limit, cursor=cursor
    )


def remove(session: Session, row: Model | Dataset) -> str:
    """Delete the row and return its artifact's key; `InUseError` while a live job uses it."""
    if isinstance(row, Model):
        judging_jobs = select(JobPruned.job_id).where(JobPruned.model_id == row.id)
        uses_row = or_(
            Job.model_id == row.id, Job.rewind_model_id == row.id, Job.id.in_(judging_jobs)
        )
    else:
        shifted_jobs = select(JobShift.job_id).where(JobShift.dataset_id == row.id)
        uses_row = or_(Job.dataset_id == row.id, Job.id.in_(shifted_jobs))
    job_id = session.scalar(select(Job.id).where(uses_row, Job.status.in_(LIVE)).limit(1))
    if job_id is not None:
        raise InUseError(row.NOUN, row.id, job_id)
    session.delete(row)
    return row.artifact


def add_key(
    session: Session, *, id: str, project: str, name: str, secret: str, scopes: list[str]
) -> ApiKey:
    """Store a key with the digest of its secret."""
    key = ApiKey(
        id=id,
        project=project,
        name=name,
        sha256=digest(secret),
        scopes=scopes,
        created_at=read_clock(session),
    )
    session.add(key)
    session.flush()
    return key


def find_key(session: Session, secret: str) -> ApiKey | None:
    """Return the key with this secret.

    It is looked up by its digest, so that the comparison leaks nothing of the secret.
    """
    return session.scalar(select(ApiKey).where(ApiKey.sha256 == digest(secret)))


ANY_KEY = select(ApiKey.id).limit(1)
"""Any key: where there is one, the service is closed to callers without. Every request without a
key asks this.
"""


def has_keys(session: Session) -> bool:
    """Return whether a key exists."""
    return session.scalar(ANY_KEY) is not None


def digest(secret: str) -> str:
    """Return the SHA-256 of a secret (hex). Keys are long and random: no slow hash is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


def publish_catalogue(session: Session, document: dict[str, Any]) -> None:
    """Replace the catalogue."""
    body = json.dumps(document, sort_keys=True)
    row = {"document": body, "sha256": digest(body), "published_at": read_clock(session)}
    session.execute(
        insert_into(session, Catalogue)
        .values(id=1, **row)
        .on_conflict_do_update(index_elements=["id"], set_=row)
    )


def read_catalogue(session: Session) -> tuple[dict[str, Any], str] | None:
    """Return the catalogue and its digest; None before a worker has started."""
    row = session.get(Catalogue, 1)
    return None if row is None else (json.loads(row.document), row.sha256)
