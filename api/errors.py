"""Every refusal is a `Problem`, and every problem is answered by one handler (RFC 9457)."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tasks.artifacts import MissingArtifactError
from tasks.store.errors import (
    CursorError,
    IdempotencyError,
    InUseError,
    NotFoundError,
    TransitionError,
)

MEDIA_TYPE = "application/problem+json"
CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    413: "payload_too_large",
    415: "unsupported_media_type",
    500: "internal",
}
MOST_FAULTS = 20
"""The number of faults that a problem lists."""
LONGEST_MESSAGE = 2000
"""The number of characters that a fault says."""
RETRY = {"Retry-After": "5"}
STORE_REFUSALS: dict[type[Exception], tuple[int, str]] = {
    NotFoundError: (404, "not_found"),
    TransitionError: (409, "illegal_transition"),
    InUseError: (409, "in_use"),
    IdempotencyError: (422, "idempotency_key_reused"),
    CursorError: (400, "invalid_cursor"),
}
"""The status and the code of what the store refuses; the store's message is the detail."""


@dataclass(frozen=True)
class Fault:
    """One fault of a request: its place in the body, or its parameter, and the reason."""

    pointer: str
    code: str
    message: str
    parameter: str | None = None

    def to_document(self) -> dict[str, str]:
        """Return the wire form."""
        document = {"pointer": self.pointer, "code": self.code, "message": self.message}
        if self.parameter is not None:
            document["parameter"] = self.parameter
        return document


class Problem(Exception):  # noqa: N818 - the name of RFC 9457
    """A refusal with its status, a stable code and a sentence for people."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})


def build_problem(faults: Sequence[Fault]) -> Problem:
    """Return a 422 for the faults; a code that all of them share becomes the problem's code."""
    codes = {fault.code for fault in faults}
    code = codes.pop() if len(codes) == 1 else "invalid_request"
    detail = "; ".join(_shorten(fault.message) for fault in faults[:3])
    if len(faults) > 3:
        detail += "; …"
    if len(faults) > MOST_FAULTS:
        detail += f" ({len(faults)} faults, of which the first {MOST_FAULTS} are listed)"
    listed = [replace(fault, message=_shorten(fault.message)) for fault in faults[:MOST_FAULTS]]
    return Problem(422, code, detail, errors=listed)


def _shorten(message: str) -> str:
    """Return a message of at most `LONGEST_MESSAGE` characters."""
    if len(message) <= LONGEST_MESSAGE:
        return message
    return message[: LONGEST_MESSAGE - 1] + "…"


def build_disk_full_problem() -> Problem:
    """Return a 507: nothing more can be stored until somebody makes room."""
    return Problem(
        507,
        "disk_full",
        "the service has no disk space left and kept nothing of this request; delete jobs, "
        "models or datasets that are not needed, or ask its operator for more space, then send "
        "it again",
    )


def _is_disk_full(error: OSError | OperationalError) -> bool:
    """Return whether the system, SQLite or PostgreSQL reports that a disk or a quota is full."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return (
        getattr(error.orig, "sqlite_errorname", None) == "SQLITE_FULL"
        or getattr(error.orig, "sqlstate", None) == "53100"
    )


def to_problem(error: Exception) -> Problem:
    """Return the problem that an exception stands for; 500 for an unexpected exception."""
    if isinstance(error, Problem):
        return error
    if type(error) in STORE_REFUSALS:
        status, code = STORE_REFUSALS[type(error)]
        return Problem(status, code, str(error))
    if isinstance(error, RequestValidationError | HTTPException | ClientDisconnect):
        return _to_request_problem(error)
    return _to_service_problem(error)


def _to_request_problem(
    error: RequestValidationError | HTTPException | ClientDisconnect,
) -> Problem:
    """Return the problem of a request that never reached its route, or was not complete."""
    match error:
        case RequestValidationError():
            return _to_parameter_problem(error)
        case HTTPException():
            code = CODES.get(error.status_code, "error")
            return Problem(error.status_code, code, str(error.detail), headers=error.headers)
    return Problem(400, "client_disconnected", "the client left before its request was complete")


def _to_service_problem(error: Exception) -> Problem:
    """Return the problem of a request that the disk, the database or a fault of ours stopped."""
    match error:
        case MissingArtifactError():
            return Problem(410, "artifact_gone", "the file is no longer in the artifact store")
        case DataError():
            return Problem(400, "invalid_value", "a value that the database cannot hold")
        case OSError() | OperationalError() if _is_disk_full(error):
            return build_disk_full_problem()
        case OperationalError() | PoolTimeoutError():
            return Problem(
                503, "database_unavailable", "the database does not answer", headers=RETRY
            )
    return Problem(
        500, "internal", "an error of the service; quote the request_id when you report it"
    )


HANDLED = (
    Problem,
    RequestValidationError,
    HTTPException,
    NotFoundError,
    TransitionError,
    InUseError,
    IdempotencyError,
    CursorError,
    MissingArtifactError,
    DataError,
    OperationalError,
    PoolTimeoutError,
    ClientDisconnect,
)


def install(app: FastAPI) -> None:
    """Answer every known refusal with a problem document; the envelope does so for the rest."""
    for kind in HANDLED:
        app.add_exception_handler(kind, answer)


async def answer(request: Request, error: Exception) -> Response:
    """Return the response to an exception."""
    problem = to_problem(error)
    document: dict[str, Any] = {
        "type": f"urn:secateur:problem:{problem.code}",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "instance": request.url.path,
        "code": problem.code,
        "errors": [fault.to_document() for fault in problem.errors],
        "request_id": request.state.request_id,
    }
    body = json.dumps(document).encode()
    return Response(body, problem.status, headers=problem.headers, media_type=MEDIA_TYPE)


def _to_parameter_problem(error: RequestValidationError) -> Problem:
    """Return the faults of path, query and headers; a path that can name nothing is a 404."""
    faults = []
    for item in error.errors():
        location = item["loc"]
        place = str(location[0])
        name = str(location[1]) if len(location) > 1 else ""
        if place == "path":
            return Problem(404, "not_found", "no such resource")
        message = f"{place} parameter {name}: {item['msg']}"
        faults.append(Fault("", str(item["type"]), message, parameter=name))
    problem = build_problem(faults)
    problem.code = "invalid_parameter"
    return problem
