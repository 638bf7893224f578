"""Exit codes: 0 ok, 1 a gate failed or gates were set and nothing is to be shipped, 2 usage, 3 the
job failed, 4 cancelled or timed out, 5 connection or key, 6 no gate failed but one is undecided,
130 interrupted.
"""

from __future__ import annotations

from typing import Any

from secateur.errors import (
    ApiError,
    AuthError,
    InvalidIdentifier,
    JobCancelled,
    JobFailed,
    WaitTimeout,
)
from secateur.wire import Job, Results

OK, GATE, USAGE, FAILED, CANCELLED, CONNECTION, UNDECIDED = range(7)
INTERRUPTED = 130
"""Typer's exit code for Ctrl-C."""


def exit_code(error: Exception) -> int:
    """Return the exit code of an error: 2 where the caller can mend it, 5 where the service or the
    connection to it failed.
    """
    match error:
        case JobFailed():
            return FAILED
        case JobCancelled() | WaitTimeout():
            return CANCELLED
        case AuthError():
            return CONNECTION
        case ApiError(status=status):
            return USAGE if 400 <= status < 500 and status != 429 else CONNECTION
        case InvalidIdentifier() | OSError():
            return USAGE
    return CONNECTION


def document_of(error: Exception) -> dict[str, Any]:
    """Return the error as JSON-ready fields."""
    if isinstance(error, ApiError):
        return error.document()
    names = {
        JobFailed: "job_failed",
        JobCancelled: "job_cancelled",
        WaitTimeout: "timed_out",
        InvalidIdentifier: "invalid_identifier",
    }
    code = names.get(type(error), "file" if isinstance(error, OSError) else "connection")
    return {"code": code, "detail": str(error)}


def job_code(job: Job, results: Results | None) -> int:
    """Return the exit code of a job that ended."""
    if job.status == "failed":
        return FAILED
    if job.status == "cancelled":
        return CANCELLED
    if results is None:
        return OK
    return {"passed": OK, "failed": GATE, "undecided": UNDECIDED}[results.gates_outcome]
