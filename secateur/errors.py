"""The failures that a client of the service can meet, as one tree of exceptions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur.wire import Job


class SecateurError(Exception):
    """Any failure this package reports."""


class ConnectionFailed(SecateurError):  # noqa: N818 (the name is part of the SDK)
    """The service could not be reached, or the connection broke more often than the client
    retries.
    """


class ChecksumMismatch(SecateurError):  # noqa: N818
    """A download does not hold the bytes that the service announced; no file was left behind."""


class InvalidIdentifier(SecateurError, ValueError):  # noqa: N818
    """The text passed as an id cannot be one."""


class UnreadableFolder(SecateurError, OSError):  # noqa: N818
    """A folder that cannot be packed to be uploaded."""


class JobFailed(SecateurError):  # noqa: N818
    """The job that was waited for ended as failed; `job.error` says why."""

    def __init__(self, job: Job) -> None:
        cause = f": {job.error.code}: {job.error.message}" if job.error else ""
        super().__init__(f"job {job.id} failed{cause}")
        self.job = job


class JobCancelled(SecateurError):  # noqa: N818
    """The job that was waited for was cancelled."""

    def __init__(self, job: Job) -> None:
        super().__init__(f"job {job.id} was cancelled")
        self.job = job


class WaitTimeout(SecateurError):  # noqa: N818
    """The job did not end within the time allowed; it goes on."""

    def __init__(self, job_id: str, timeout_s: float) -> None:
        super().__init__(f"job {job_id} was not finished within {timeout_s:g} s; it goes on")
        self.job_id = job_id
        self.timeout_s = timeout_s


@dataclass(frozen=True)
class FieldError:
    """A complaint about a place (a JSON pointer) of a request."""

    pointer: str
    code: str
    message: str


class ApiError(SecateurError):
    """The service refused a request; the fields are those of its problem document (RFC 9457)."""

    def __init__(
        self,
        status: int,
        *,
        code: str,
        title: str,
        detail: str = "",
        errors: tuple[FieldError, ...] = (),
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
        self.errors = errors
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        super().__init__(self._format_message())

    def _format_message(self) -> str:
        lines = [f"{self.status} {self.code}: {self.detail or self.title}"]
        lines += [f"  {error.pointer or '/'}: {error.message}" for error in self.errors]
        if self.request_id:
            lines.append(f"  request {self.request_id}")
        return "\n".join(lines)

    @classmethod
    def from_answer(cls, status: int, headers: Mapping[str, str], content: bytes) -> ApiError:
        """Return the error that an answer of 400 or above carries; `AuthError` for 401 and 403."""
        problem = _parse_object(content)
        kind = AuthError if status in (401, 403) else cls
        listed = problem.get("errors")
        errors = listed if isinstance(listed, list) else []
        return kind(
            status,
            code=str(problem.get("code") or f"http_{status}"),
            title=str(problem.get("title") or f"HTTP {status}"),
            detail=str(problem.get("detail") or ""),
            errors=tuple(_read_field_error(error) for error in errors if isinstance(error, dict)),
            request_id=str(problem.get("request_id") or headers.get("x-request-id") or "") or None,
            retry_after_s=retry_after(headers.get("retry-after")),
        )

    def document(self) -> dict[str, Any]:
        """Return the problem as JSON-ready fields."""
        return {
            "status": self.status,
            "code": self.code,
            "title": self.title,
            "detail": self.detail,
            "errors": [vars(error) for error in self.errors],
            "request_id": self.request_id,
        }


class AuthError(ApiError):
    """The API key is missing or wrong (401), or not allowed to do this (403)."""


def retry_after(value: str | None) -> float | None:
    """Return the seconds to wait by a `Retry-After` header, which names seconds or a date; `None`
    without a usable header.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return None if math.isnan(seconds) else max(seconds, 0.0)


def _parse_object(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _read_field_error(error: dict[str, Any]) -> FieldError:
    return FieldError(
        pointer=str(error.get("pointer") or ""),
        code=str(error.get("code") or ""),
        message=str(error.get("message") or ""),
    )
