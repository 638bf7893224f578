"""The problem document (RFC 9457) and its place in the API's description."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, ConfigDict

from api.errors import build_disk_full_problem


class FaultDocument(BaseModel):
    """A fault of the request."""

    pointer: str
    """JSON pointer (RFC 6901) into the body as sent; empty for the whole body or a parameter."""
    code: str
    message: str
    parameter: str | None = None
    """The path, query or header parameter, when the fault is not in the body."""


class ProblemDocument(BaseModel):
    """The reason why a request was refused."""

    model_config = ConfigDict(title="Problem", use_attribute_docstrings=True)

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    """Stable; programs decide by it."""
    errors: list[FaultDocument]
    request_id: str


EXAMPLES: dict[int, tuple[str, str, str | None]] = {
    304: ("not_modified", "", None),
    400: ("invalid_json", "the body is not JSON: Expecting value: line 1 column 1 (char 0)", None),
    401: ("unauthorized", "this API key is not known", None),
    403: ("forbidden", "this API key lacks the scope 'write'", None),
    404: ("not_found", "no job 'job_06apt1c3nvg28o2e8b5hkq9s40'", None),
    406: ("not_acceptable", "no report in 'image/png'; there are json, html, md, junit", None),
    409: ("in_use", "model mdl_06apt1c3nvg28o2e8b5hkq9s40 is used by a live job", None),
    410: ("artifact_gone", "the file is no longer in the artifact store", None),
    413: ("payload_too_large", "the body is larger than 1000000 bytes", None),
    415: ("unsupported_media_type", "content type 'text/plain': send application/json", None),
    416: ("range_not_satisfiable", "the file has 1024 bytes", None),
    422: (
        "unknown_criterion",
        "unknown criterion 'magnitud'; did you mean 'magnitude'?",
        "/criterion/name",
    ),
    500: ("internal", "an error of the service; quote the request_id when you report it", None),
    503: ("catalogue_unpublished", "no worker has published its catalogue yet", None),
    507: ("disk_full", build_disk_full_problem().detail, None),
}


def build_example(status: int) -> dict[str, Any]:
    """Return an example of a problem of this status."""
    code, detail, pointer = EXAMPLES[status]
    errors = []
    if pointer is not None:
        errors.append({"pointer": pointer, "code": code, "message": detail})
    return {
        "type": f"urn:secateur:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": "/v1/jobs",
        "code": code,
        "request_id": "req_8f3c2a6d1b0e4f5a9c7d6e21",
        "errors": errors,
    }


def describe_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route that may refuse with these statuses."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {
                "application/problem+json": {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "example": build_example(status),
                }
            },
        }
        for status in sorted({401, 403, *statuses})
    }
