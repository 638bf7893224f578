"""The state of the service: whether it answers and can accept jobs, its version, its metrics."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.security import HTTPAuthorizationCredentials
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

import tasks.queue
from api.access import bearer, identify_caller, is_local
from api.errors import Problem
from api.schemas.problem import describe_problems
from api.services import Services, ServicesDep
from tasks.store import assets

VERSION = version("secateur")
router = APIRouter(tags=["service"])


class State(BaseModel):
    """The state of the service."""

    status: str


class Version(BaseModel):
    """The software that answers."""

    name: str
    version: str
    api: str


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", operation_id="healthz", summary="Whether the process answers")
async def check_health() -> State:
    """Answer with 200 while the process runs; nothing else is checked."""
    return State(status="ok")


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    operation_id="readyz",
    summary="Whether jobs can be accepted",
    responses=describe_problems(503),
)
def check_ready(services: ServicesDep) -> State:
    """Answer with 200 when jobs can be accepted, and with 503 and the reason when not.

    The database, the artifact store and the broker must answer, and a worker must have published
    the catalogue. It is not checked whether a worker runs now.
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
            raise _build_unready_problem(
                f"the {name} does not answer ({type(error).__name__})"
            ) from error
    if not _is_catalogue_published(services):
        raise _build_unready_problem("no worker has published its catalogue yet")
    return State(status="ready")


def _build_unready_problem(reason: str) -> Problem:
    return Problem(503, "not_ready", reason, headers={"Retry-After": "5"})


def _is_catalogue_published(services: Services) -> bool:
    with services.store.read() as session:
        return assets.read_catalogue(session) is not None


@router.get("/version", operation_id="version", summary="The version of the service")
async def show_version() -> Version:
    """Show the version of the distribution and that of the API."""
    return Version(name="secateur", version=VERSION, api="v1")


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **describe_problems(),
    },
)
def show_metrics(
    request: Request,
    services: ServicesDep,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> Response:
    """Show the metrics: to clients on this machine, and to keys with the scope `admin`."""
    if not is_local(request) and not identify_caller(request, services, credentials).may("admin"):
        raise Problem(403, "forbidden", "this API key lacks the scope 'admin'")
    return Response(services.metrics.render(services.store), media_type=CONTENT_TYPE_LATEST)
