"""What can go wrong between a client and the service, as one tree."""

from __future__ import annotations

import json
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
    """What was given as an id cannot be one."""


class JobFailed(SecateurError):  # noqa: N818
    """The job that was waited for ended as failed; `job.error` says why."""

    def __init__(self, job: Job) -> None:
        why = f": {job.error.code}: {job.error.message}" if job.error else ""
        super().__init__(f"job {job.id} failed{why}")
        self.job = job


class JobCancelled(SecateurError):  # noqa: N818
    """The job that was waited for was cancelled."""

    def __init__(self, job: Job) -> None:
        super().__init__(f"job {job.id} was cancelled")
        self.job = job


class WaitTimeout(SecateurError):  # noqa: N818
    """The job was not terminal within the time given; it goes on."""

    def __init__(self, job_id: str, timeout_s: float) -> None:
        super().__init__(f"job {job_id} was not finished within {timeout_s:g} s; it goes on")
        self.job_id = job_id
        self.timeout_s = timeout_s


@dataclass(frozen=True)
class FieldError:
    """One complaint about one place (a JSON pointer) of a request."""

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
        super().__init__(self._message())

    def _message(self) -> str:
        lines = [f"{self.status} {self.code}: {self.detail or self.title}"]
        lines += [f"  {each.pointer or '/'}: {each.message}" for each in self.errors]
        if self.request_id:
            lines.append(f"  request {self.request_id}")
        return "\n".join(lines)

    @classmethod
    def of(cls, status: int, headers: Mapping[str, str], content: bytes) -> ApiError:
        """The error that an answer of 400 or above carries; `AuthError` for 401 and 403."""
        problem = _object(content)
        kind = AuthError if status in (401, 403) else cls
        listed = problem.get("errors")
        return kind(
            status,
            code=str(problem.get("code") or f"http_{status}"),
            title=str(problem.get("title") or f"HTTP {status}"),
            detail=str(problem.get("detail") or ""),
            errors=tuple(_field_error(each) for each in listed if isinstance(each, dict))
            if isinstance(listed, list)
            else (),
            request_id=str(problem.get("request_id") or headers.get("x-request-id") or "") or None,
            retry_after_s=retry_after(headers.get("retry-after")),
        )

    def document(self) -> dict[str, Any]:
        """The problem as JSON-ready fields."""
        return {
            "status": self.status,
            "code": self.code,
            "title": self.title,
            "detail": self.detail,
            "errors": [vars(each) for each in self.errors],
            "request_id": self.request_id,
        }


class AuthError(ApiError):
    """The API key is missing, wrong (401) or not allowed to do this (403)."""


def retry_after(value: str | None) -> float | None:
    """Seconds to wait by a `Retry-After` header, given as seconds or as a date; `None` without a
    usable one.
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
    return max(seconds, 0.0) if seconds == seconds else None


def _object(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _field_error(each: dict[str, Any]) -> FieldError:
    return FieldError(*(str(each.get(name) or "") for name in ("pointer", "code", "message")))
