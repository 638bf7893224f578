"""The catalogue: every method with the schema of its parameters."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict

from api.access import Reader
from api.checks import read_catalogue
from api.http.files import PRIVATE, matches_etag
from api.schemas.problem import describe_problems
from api.services import ServicesDep

router = APIRouter(prefix="/v1/methods", tags=["methods"])


class Entry(BaseModel):
    """A method of the catalogue."""

    name: str
    summary: str
    params: dict[str, Any]
    """The JSON Schema of the method's parameters."""
    family: str | None = None
    """The meaning of a member's depth and width, for an architecture that has families."""


class Catalogue(BaseModel):
    """The methods that the workers know, by kind."""

    model_config = ConfigDict(extra="allow")

    criteria: list[Entry]
    allocations: list[Entry]
    granularities: list[Entry]
    sparsifiers: list[Entry]
    schedules: list[Entry]
    evaluations: list[Entry]
    architectures: list[Entry]
    datasets: list[Entry]
    corruptions: list[Entry]


@router.get(
    "",
    operation_id="list_methods",
    summary="The catalogue of methods",
    response_model=Catalogue,
    responses={304: {"description": "Not Modified"}, **describe_problems(503)},
)
def list_methods(request: Request, services: ServicesDep, caller: Reader) -> Response:
    """List the methods of every kind: criteria, allocations, granularities, sparsifiers, schedules,
    evaluations, architectures, datasets and corruptions.
    """
    with services.store.read() as session:
        document, sha256 = read_catalogue(session)
    headers = {"ETag": f'"{sha256}"', "Cache-Control": PRIVATE}
    if matches_etag(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(json.dumps(document), headers=headers, media_type="application/json")
