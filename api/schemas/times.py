"""Times on the wire: ISO 8601, UTC, milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import WithJsonSchema

Time = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
"""A time as text, declared as a date with a time (RFC 3339) in the OpenAPI document."""


def to_iso(seconds: float) -> str:
    """Return seconds since the epoch as text.

    >>> to_iso(0.25)
    '1970-01-01T00:00:00.250Z'
    """
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def to_iso_or_none(seconds: float | None) -> str | None:
    """Return seconds since the epoch as text; None stays None."""
    return None if seconds is None else to_iso(seconds)
