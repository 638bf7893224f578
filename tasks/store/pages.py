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

Row = TypeVar("Row")
FOREIGN_CURSOR = "not a cursor of this service"


@dataclass(frozen=True)
class Page(Generic[Row]):
    """One page of a list."""

    data: Sequence[Row]
    next_cursor: str | None


def paginate(
    session: Session,
    query: Select[Any],
    id_column: Any,
    *,
    scope: str,
    limit: int,
    cursor: str | None,
) -> Page[Row]:
    """Return the rows of `query` after `cursor`, newest first.

    `scope` ties a cursor to its list, project and filters.
    """
    if cursor is not None:
        query = query.where(id_column < _decode(cursor, scope))
    rows = list(session.scalars(query.order_by(id_column.desc()).limit(limit + 1)))
    has_more = len(rows) > limit
    next_cursor = _encode(rows[limit - 1].id, scope) if has_more else None
    return Page(rows[:limit], next_cursor)


def _encode(last: str, scope: str) -> str:
    document = json.dumps([scope, last])
    return base64.urlsafe_b64encode(document.encode()).decode().rstrip("=")


def _decode(cursor: str, scope: str) -> str:
    padding = "=" * (-len(cursor) % 4)
    try:
        parts = json.loads(base64.urlsafe_b64decode(cursor + padding))
    except (ValueError, binascii.Error):
        raise CursorError(FOREIGN_CURSOR) from None
    if not isinstance(parts, list) or len(parts) != 2:
        raise CursorError(FOREIGN_CURSOR)
    if not all(isinstance(part, str) for part in parts):
        raise CursorError(FOREIGN_CURSOR)
    cursor_scope, last = parts
    if cursor_scope != scope:
        raise CursorError("this cursor belongs to another list or other filters")
    return str(last)
