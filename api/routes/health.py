"""Is it up, can it work, which version, how many requests."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.security import HTTPAuthorizationCredentials
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

import tasks.queue
from api.access import bearer, caller, local
from api.errors import Problem
from api.schemas.problem import problems
from api.services import Services, ServicesDep
from tasks.store import assets

VERSION = version("secateur")
router = APIRouter(tags=["service"])


class State(BaseModel):
    """The state of the service."""

    status: str


class Version(BaseModel):
    """Which software answers."""

    name: str
    version: str
    api: str


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", operation_id="healthz", summary="Whether the process answers")
async def healthz() -> State:
    """200 while the process runs; looks at nothing else and needs no thread."""
    return State(status="ok")


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    operation_id="readyz",
    summary="Whether jobs can be accepted",
    responses=problems(503),
)
def readyz(services: ServicesDep) -> State:
    """503 with the reason while the database, the artifact store or the broker does not answer, and
    until a worker has published the catalogue; whether a worker runs now is not looked at.
    """
    checks: tuple[tuple[str, Callable[[], object]], ...] = (
        ("database", services.store.ping),
        ("artifact store", services.artifacts.ping),
        ("broker", lambda: tasks.queue.ping_broker(services.settings)),
    )
    for name, check in checks:
        try:
            check()
        except Exception as error:
            raise _unready(f"the {name} does not answer ({type(error).__name__})") from error
    if not _published(services):
        raise _unready("no worker has published its catalogue yet")
    return State(status="ready")


def _unready(reason: str) -> Problem:
    return Problem(503, "not_ready", reason, headers={"Retry-After": "5"})


def _published(services: Services) -> bool:
    with services.store.read() as session:
        return assets.read_catalogue(session) is not None


@router.get("/version", operation_id="version", summary="The version of the service")
async def show_version() -> Version:
    """The distribution's version and the API's."""
    return Version(name="secateur", version=VERSION, api="v1")


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problems()},
)
def metrics(
    request: Request,
    services: ServicesDep,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> Response:
    """Open to this machine; elsewhere behind the scope `admin`."""
    if not local(request) and not caller(request, services, credentials).may("admin"):
        raise Problem(403, "forbidden", "this API key lacks the scope 'admin'")
    return Response(services.metrics.render(services.store), media_type=CONTENT_TYPE_LATEST)
