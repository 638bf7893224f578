"""Cursor pagination, newest first."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import Session

from tasks.store.errors import CursorError

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """One page of a list."""

    data: Sequence[T]
    next_cursor: str | None


def paginate(
    session: Session,
    query: Select[Any],
    id_column: Any,
    *,
    scope: str,
    limit: int,
    cursor: str | None,
) -> Page[T]:
    """The rows of `query` after `cursor`, newest first; `scope` ties a cursor to its list, project
    and filters.
    """
    if cursor is not None:
        query = query.where(id_column < _decode(cursor, scope))
    rows = list(session.scalars(query.order_by(id_column.desc()).limit(limit + 1)))
    more = len(rows) > limit
    return Page(rows[:limit], _encode(rows[limit - 1].id, scope) if more else None)


def _encode(last: str, scope: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([scope, last]).encode()).decode().rstrip("=")


def _decode(cursor: str, scope: str) -> str:
    try:
        found = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error):
        raise CursorError("not a cursor of this service") from None
    if not (
        isinstance(found, list) and len(found) == 2 and all(isinstance(part, str) for part in found)
    ):
        raise CursorError("not a cursor of this service")
    if found[0] != scope:
        raise CursorError("this cursor belongs to another list or other filters")
    return str(found[1])
