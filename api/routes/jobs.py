"""Jobs: submit them, show them, list them, and change their course."""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from api.access import Id, Reader, Writer
from api.errors import Fault, Problem, build_problem
from api.forecasts import foresee
from api.http.bodies import JsonBody
from api.http.files import PRIVATE, matches_etag
from api.schemas.jobs import JobPage, JobView, Validation
from api.schemas.problem import describe_problems
from api.services import ServicesDep
from api.submission import check_job, keep_inputs, read_spec, submit, wait_until_ended
from api.views import build_view, build_views
from pruning.schemas.evaluate import list_pruned_ids
from pruning.schemas.job import JobSpec, Status, list_shifted_ids
from tasks.store import families, jobs
from tasks.store.errors import NotFoundError
from tasks.store.tables import Job

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
LONGEST_WAIT_S = 60
WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})", re.IGNORECASE)
"""The preference `wait=N` of a `Prefer` header."""
SPEC = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "oneOf": [
                        {"$ref": "#/components/schemas/JobSpec"},
                        {"$ref": "#/components/schemas/FamilySpec"},
                        {"$ref": "#/components/schemas/EvaluateSpec"},
                    ],
                    "discriminator": {
                        "propertyName": "type",
                        "mapping": {
                            "prune": "#/components/schemas/JobSpec",
                            "family": "#/components/schemas/FamilySpec",
                            "evaluate": "#/components/schemas/EvaluateSpec",
                        },
                    },
                },
                "examples": {
                    "prune": {
                        "value": {
                            "type": "prune",
                            "model": {"id": "mdl_06apt1c3nvg28o2e8b5hkq9s40"},
                            "dataset": {"id": "dst_06apt1c4c5h2k7q9d3m8f1n6b0"},
                            "targets": {"sparsity": [0.5, 0.8, 0.9, 0.95]},
                        }
                    },
                    "family": {
                        "value": {
                            "type": "family",
                            "model": {
                                "architecture": "cifar_resnet",
                                "train": {"epochs": 20, "rewind_epoch": 2},
                            },
                            "dataset": {"id": "dst_06apt1c4c5h2k7q9d3m8f1n6b0"},
                            "max_error": [0.1],
                            "members": {
                                "depths": [8, 14, 20],
                                "widths": [0.25, 0.5, 1],
                                "fractions": [0.25, 1],
                            },
                        }
                    },
                    "evaluate": {
                        "value": {
                            "type": "evaluate",
                            "model": {"id": "mdl_06apt1c3nvg28o2e8b5hkq9s40"},
                            "pruned": [{"id": "mdl_06apt1c6q8e9r4t2v7w1x5z3m0", "name": "tp-0.5"}],
                            "dataset": {"id": "dst_06apt1c4c5h2k7q9d3m8f1n6b0"},
                            "gates": {"max_error_increase": 0.01},
                        }
                    },
                },
            }
        },
    }
}
ACCEPTED = {
    "description": "Accepted",
    "headers": {
        "Location": {"schema": {"type": "string"}},
        "Retry-After": {"schema": {"type": "integer"}},
        "Idempotent-Replayed": {"schema": {"type": "string"}},
        "Preference-Applied": {"schema": {"type": "string"}},
    },
}


@router.post(
    "",
    operation_id="create_job",
    summary="Submit a job",
    status_code=202,
    response_model=JobView,
    openapi_extra=SPEC,
    responses={
        200: {
            "model": Validation,
            "description": "With validate_only: an estimate; nothing is stored",
        },
        202: ACCEPTED,
        **describe_problems(400, 404, 409, 413, 415, 422, 500, 503, 507),
    },
)
async def create_job(
    services: ServicesDep,
    caller: Writer,
    body: JsonBody,
    validate_only: bool = False,
    idempotency_key: Annotated[str | None, Header(pattern=r"^[\x21-\x7e]{1,255}$")] = None,
    prefer: Annotated[
        str | None,
        Header(description="`wait=N`: answer after N seconds, or when the job has ended"),
    ] = None,
) -> Response:
    """Check the job and queue it; requests with the same Idempotency-Key create one job."""
    spec = await run_in_threadpool(read_spec, services, body)
    if validate_only:
        validation = await check_job(services, caller.project, spec)
        if isinstance(spec, JobSpec):
            validation.foreseen = await run_in_threadpool(foresee, services, caller.project, spec)
        return JSONResponse(validation.model_dump(mode="json"))
    job, created = await submit(services, caller.project, spec, idempotency_key)
    headers = {"Location": job.links.self, "Retry-After": "2"}
    if not created:
        headers["Idempotent-Replayed"] = "true"
    wait = WAIT.search(prefer or "")
    if wait is not None:
        wait_s = min(int(wait[1]), LONGEST_WAIT_S)
        headers["Preference-Applied"] = f"wait={wait_s}"
        job = await wait_until_ended(services, caller.project, job, wait_s)
    return JSONResponse(job.model_dump(mode="json"), 202, headers)


@router.get(
    "",
    operation_id="list_jobs",
    summary="List jobs",
    response_model=JobPage,
    responses=describe_problems(400, 422),
)
def list_jobs(
    services: ServicesDep,
    caller: Reader,
    *,
    status: Status | None = None,
    label: Annotated[str | None, Query(max_length=320, description="key=value")] = None,
    parent: Annotated[
        str | None,
        Query(
            pattern=r"^(none|[a-z]{3}_[0-9a-z]{8,40})$",
            description="a family, to list its members; none: jobs that are no members",
        ),
    ] = None,
    type: Literal["prune", "family", "evaluate"] | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: str | None = None,
) -> Response:
    """List the jobs, newest first, with the members of families unless `parent=none`."""
    key, equals, value = (label or "").partition("=")
    if label is not None and not (equals and key):
        raise build_problem(
            [Fault("", "invalid_parameter", f"label {label!r}: give key=value", "label")]
        )
    filters = jobs.JobFilter(
        status=status,
        label=None if label is None else (key, value),
        parent=parent,
        kind=type,
    )
    with services.store.read() as session:
        page = jobs.read_page(session, caller.project, limit=limit, cursor=cursor, filters=filters)
        answer = JobPage(
            data=build_views(session, page.data),
            has_more=page.next_cursor is not None,
            next_cursor=page.next_cursor,
        )
    return Response(answer.model_dump_json(), media_type="application/json")


@router.get(
    "/{id}",
    operation_id="get_job",
    summary="Show a job",
    response_model=JobView,
    responses={304: {"description": "Not Modified"}, **describe_problems(404)},
)
def get_job(id: Id, request: Request, services: ServicesDep, caller: Reader) -> Response:
    """Show a job: 200, also for a failed one; 304 when nothing changed."""
    with services.store.read() as session:
        job = build_view(session, jobs.get(session, caller.project, id))
    body = job.model_dump_json()
    digest = hashlib.sha256(body.encode()).hexdigest()
    headers = {"ETag": f'"{digest[:32]}"', "Cache-Control": PRIVATE}
    if not job.terminal:
        headers["Retry-After"] = "2"
    if matches_etag(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type="application/json")


@router.delete(
    "/{id}",
    operation_id="delete_job",
    summary="Delete a job",
    status_code=204,
    responses=describe_problems(404, 409),
)
def delete_job(id: Id, services: ServicesDep, caller: Writer) -> None:
    """Delete the job with its history, its files and the members of a family.

    409 while any of these jobs is live.
    """
    with services.store.write() as session:
        deleted = jobs.remove(session, caller.project, id)
    for job_id in deleted:
        services.artifacts.delete(f"jobs/{job_id}")


Verb = Literal["cancel", "pause", "resume", "retry"]


def _add_transition(verb: Verb, summary: str, description: str) -> None:
    """Add the route of a verb.

    It answers with 202 when the job is now on its way, and with 200 when it has arrived already.
    """

    def act(id: Id, services: ServicesDep, caller: Writer) -> Response:
        with services.store.write() as session:
            row = jobs.get(session, caller.project, id)
            previous = row.status
            if verb == "retry":
                _require_inputs(session, row)
            row = jobs.request(session, caller.project, id, verb)
            is_under_way = row.status != previous and row.status in jobs.UNDER_WAY
            if jobs.is_parent(row):
                members = families.follow(session, caller.project, id, verb)
                is_under_way = is_under_way or members > 0
            job = build_view(session, row)
        if row.status == "queued":
            services.wake.set()
        return JSONResponse(job.model_dump(mode="json"), 202 if is_under_way else 200)

    router.post(
        f"/{{id}}/{verb}",
        operation_id=f"{verb}_job",
        summary=summary,
        description=description,
        response_model=JobView,
        responses={
            202: {"model": JobView, "description": "Under way"},
            **describe_problems(404, 409),
        },
    )(act)


def _require_inputs(session: Session, row: Job) -> None:
    """Refuse to run a job again whose model or dataset was deleted."""
    try:
        keep_inputs(
            session,
            [row.model_id, row.rewind_model_id, *list_pruned_ids(row.spec)],
            [row.dataset_id, *list_shifted_ids(row.spec)],
        )
    except NotFoundError as error:
        raise Problem(409, "missing_input", f"job {row.id} cannot run again: {error}") from None


_add_transition(
    "cancel",
    "Cancel a job",
    "Queued and paused jobs end at once, a running one soon; repeating is harmless.",
)
_add_transition(
    "pause",
    "Pause a job",
    "A running job's process is ended at once, which frees its device; resumed, "
    "the job goes on from its last saved step.",
)
_add_transition(
    "resume", "Resume a paused job", "Queue it again; it goes on from its last saved step."
)
_add_transition(
    "retry",
    "Retry a job that failed or was cancelled",
    "Queue it again; saved stages are used. A family that succeeded runs again and writes a new "
    "report when a member that did not succeed is retried, or when the family itself is retried, "
    "which retries all of those members.",
)
