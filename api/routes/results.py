"""The results of a job: summary, report, checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from api.access import Id, Reader
from api.errors import Fault, Problem, build_problem
from api.http.files import read_file, send_file
from api.http.junit import fail_undecided
from api.schemas.problem import describe_problems
from api.schemas.results import CheckpointList, CheckpointView, Results
from api.services import Services, ServicesDep
from api.views import build_view
from pruning.schemas.job import TERMINAL
from pruning.schemas.outputs import ExportFormat, FileFormat, name_file
from tasks.store import families, jobs
from tasks.store.errors import NotFoundError
from tasks.store.tables import Job, ResultFile

router = APIRouter(prefix="/v1/jobs/{id}", tags=["results"])
REPORT = "report"
MEDIA = {
    "json": "application/json",
    "html": "text/html",
    "md": "text/markdown",
    "junit": "application/xml",
}
ACCEPTS = {
    "application/json": "json",
    "text/html": "html",
    "text/markdown": "md",
    "application/xml": "junit",
    "text/xml": "junit",
    "application/*": "json",
    "text/*": "html",
    "*/*": "json",
}
NO_SCRIPTS = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
SAFETENSORS = "application/octet-stream"
ARCH = "application/json"
CheckpointId = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$", examples=["magnitude-0.9"])
]
Fields = Annotated[
    str | None,
    Query(
        description=(
            "fields to answer with, separated by commas; a dot leads into an object; the others "
            "are left out"
        ),
        max_length=1000,
        examples=["recommendation,gates,report.checkpoints"],
    ),
]
REPORT_SCHEMAS = {
    "json": {
        "anyOf": [
            {"$ref": "#/components/schemas/Report"},
            {"$ref": "#/components/schemas/FamilyReport"},
        ]
    },
    **{format: {"type": "string"} for format in ("html", "md", "junit")},
}
ARCH_SCHEMA = {"$ref": "#/components/schemas/ArchFile"}
"""The document from which `pruning.library.load_compact` rebuilds the network."""
BINARY = {"schema": {"type": "string", "format": "binary"}}
PARTS: dict[int | str, dict[str, Any]] = {
    200: {"content": {SAFETENSORS: BINARY, ARCH: {"schema": ARCH_SCHEMA}}},
    304: {"description": "Not Modified"},
    206: {"description": "Partial Content", "content": {SAFETENSORS: BINARY}},
}


def read_files(services: Services, project: str, id: str) -> tuple[Job, list[ResultFile]]:
    """Return the job of this project and its downloadable files; raise `NotFoundError` if none."""
    with services.store.read() as session:
        return jobs.get(session, project, id), jobs.list_result_files(session, id)


def find_file(files: list[ResultFile], checkpoint: str, format: str) -> ResultFile | None:
    """Return the file of a checkpoint, or of the report, in a format."""
    for file in files:
        if (file.checkpoint, file.format) == (checkpoint, format):
            return file
    return None


def require_ended(row: Job) -> None:
    """Raise a 409 while the job has not ended."""
    if row.status not in TERMINAL:
        raise Problem(
            409, "job_not_finished", f"job {row.id} is {row.status}", headers={"Retry-After": "2"}
        )


@router.get(
    "/results",
    operation_id="get_results",
    summary="The results of a finished job",
    response_model=Results,
    responses=describe_problems(404, 409, 410, 422),
)
def get_results(
    id: Id, services: ServicesDep, caller: Reader, fields: Fields = None
) -> Results | Response:
    """Show the report, the checkpoints with their links, the recommendation and the gates.

    A failed job shows what it finished. The checkpoints of a family are those of the networks that
    its law chose and that were then trained, those of a job with replicates are the replicates'
    own. With `fields` the answer holds these alone.
    """
    job, files = read_files(services, caller.project, id)
    require_ended(job)
    report = _read_report(services, files)
    with services.store.read() as session:
        job_view = build_view(session, job)
    results = Results(
        job=job_view,
        report=report,
        checkpoints=_collect_checkpoints(services, id, report, files),
        recommendation=(report or {}).get("recommendation"),
        gates=(report or {}).get("gates", []),
        joint=(report or {}).get("joint"),
    )
    if fields is None:
        return results
    return JSONResponse(select_fields(results.model_dump(mode="json"), fields))


def select_fields(document: Mapping[str, Any], fields: str) -> dict[str, Any]:
    """Return the fields of a document, listed with commas; dots lead into objects.

    Raises a 422 for a field that the document does not have.

    >>> select_fields({"a": {"b": 1, "c": 2}, "d": 3}, "a.b,d")
    {'a': {'b': 1}, 'd': 3}
    """
    selected: dict[str, Any] = {}
    for path in fields.split(","):
        *parents, last = path.split(".")
        source, target = document, selected
        for name in parents:
            source = _read_field(source, name, path)
            inside = target.setdefault(name, {})
            # A path into an object that is selected as a whole adds nothing to it.
            target = {} if inside is source else inside
        target[last] = _read_field(source, last, path)
    return selected


def _read_field(source: Any, name: str, path: str) -> Any:
    if isinstance(source, Mapping) and name in source:
        return source[name]
    message = f"fields: the results have no field {path!r}"
    raise build_problem([Fault("", "unknown_field", message, "fields")])


@router.get(
    "/checkpoints",
    operation_id="list_checkpoints",
    summary="The checkpoints that a job has finished",
    responses=describe_problems(404),
)
def list_checkpoints(id: Id, services: ServicesDep, caller: Reader) -> CheckpointList:
    """List the checkpoints with their links, also while the job is still running.

    The checkpoints of a family are those of the networks that its law chose, those of a job with
    replicates are the replicates' own.
    """
    _, files = read_files(services, caller.project, id)
    report = _read_report(services, files)
    return CheckpointList(data=_collect_checkpoints(services, id, report, files))


def _collect_checkpoints(
    services: Services, id: str, report: dict[str, Any] | None, files: list[ResultFile]
) -> list[CheckpointView]:
    """Return the checkpoints of a job; of a family, those of its answers, and of a job with
    replicates those of all of them.
    """
    with services.store.read() as session:
        members = [
            (row.job_id, jobs.list_result_files(session, row.job_id))
            for row, _ in families.list_members(session, id)
            if row.member["role"] in ("answer", "replicate")
        ]
    # The report of a job with replicates has means, which are no networks to download.
    checkpoints = [] if (report or {}).get("replicates") else _list_checkpoints(id, report, files)
    for member_id, member_files in members:
        member_report = _read_report(services, member_files)
        checkpoints += _list_checkpoints(member_id, member_report, member_files)
    return checkpoints


def _read_report(services: Services, files: list[ResultFile]) -> dict[str, Any] | None:
    file = find_file(files, REPORT, "json")
    return None if file is None else json.loads(read_file(services.artifacts, file))


def _list_checkpoints(
    job_id: str, report: dict[str, Any] | None, files: list[ResultFile]
) -> list[CheckpointView]:
    """Return the checkpoints of a job: those of its report, and those that have files."""
    measured = {item["id"]: item for item in (report or {}).get("checkpoints", ())}
    stored: dict[str, list[ResultFile]] = {name: [] for name in measured}
    for file in files:
        if file.checkpoint != REPORT:
            stored.setdefault(file.checkpoint, []).append(file)
    return [
        _build_checkpoint(job_id, name, measured.get(name, {}), rows)
        for name, rows in stored.items()
    ]


def _build_checkpoint(
    job_id: str, name: str, measured: dict[str, Any], files: list[ResultFile]
) -> CheckpointView:
    """Return a checkpoint, with its numbers from the report and its files from the store."""
    fields = ("criterion", "requested_sparsity", "requested", "sparsity", "density", "error")
    return CheckpointView(
        id=name,
        job=job_id,
        **{field: measured.get(field) for field in fields},
        formats=[file.format for file in files],
        size_bytes={file.format: file.size_bytes for file in files},
        partial=measured.get("partial", True),
        sha256={file.format: file.sha256 for file in files},
        links={
            file.format: f"/v1/jobs/{job_id}/checkpoints/{name}?format={file.format}"
            for file in files
        },
    )


@router.get(
    "/report",
    operation_id="get_report",
    summary="The report of a finished job",
    response_class=Response,
    responses={
        200: {
            "content": {
                MEDIA[format]: {"schema": schema} for format, schema in REPORT_SCHEMAS.items()
            }
        },
        **describe_problems(404, 406, 409, 410),
    },
)
def get_report(
    id: Id,
    *,
    request: Request,
    services: ServicesDep,
    caller: Reader,
    format: str | None = None,
    undecided: Annotated[
        Literal["skip", "fail"], Query(description="What an undecided gate is in junit.")
    ] = "skip",
) -> Response:
    """Send the report as json, html (self-contained), md or junit: `?format=` or the Accept header.

    A family has a partial report while its members run. In junit a gate that is undecided is
    skipped, with its reason; `?undecided=fail` makes it a failure.
    """
    accepted = request.headers.get("accept")
    if format:
        chosen = format if format in MEDIA else None
    else:
        chosen = _choose_format("*/*" if accepted is None else accepted)
    if chosen is None:
        detail = f"no report in {format or accepted!r}; there are {', '.join(MEDIA)}"
        raise Problem(406, "not_acceptable", detail)
    job, files = read_files(services, caller.project, id)
    row = find_file(files, REPORT, chosen)
    if row is None or not jobs.is_parent(job):
        require_ended(job)
    if row is None:
        raise Problem(404, "no_report", f"job {id} ended without a report in this format")
    headers = {"Vary": "Accept"}
    if chosen == "html":
        headers["Content-Security-Policy"] = NO_SCRIPTS
    if chosen == "junit" and undecided == "fail":
        content = fail_undecided(read_file(services.artifacts, row))
        return Response(content, media_type=MEDIA[chosen], headers=headers)
    return send_file(request, services.artifacts, row, MEDIA[chosen], headers)


def _choose_format(header: str) -> str | None:
    """Return the format of the report that a client prefers; None if it accepts none."""
    liked: list[tuple[float, str]] = []
    for item in header.lower().split(","):
        media, *options = (part.strip() for part in item.split(";"))
        weights = [option[2:] for option in options if option.startswith("q=")]
        try:
            weight = float(weights[0]) if weights else 1.0
        except ValueError:
            weight = 0.0
        if media in ACCEPTS and weight > 0:
            liked.append((weight, ACCEPTS[media]))
    if not liked:
        return None
    _, best = max(liked, key=lambda pair: pair[0])
    return best


@router.head("/checkpoints/{cid}", include_in_schema=False)
@router.get(
    "/checkpoints/{cid}",
    operation_id="get_checkpoint",
    summary="Download a checkpoint",
    response_class=Response,
    responses={**PARTS, **describe_problems(404, 410, 416, 422)},
)
def get_checkpoint(
    id: Id,
    cid: CheckpointId,
    *,
    request: Request,
    services: ServicesDep,
    caller: Reader,
    format: FileFormat = "sparse",
) -> Response:
    """Send a finished checkpoint, also while its job is still running.

    `Range`, `If-Range` and `If-None-Match` are honoured. `arch` is the JSON that rebuilds a network
    whose channels were removed; other checkpoints have none. `compressed` (xz), `onnx`, `pth`,
    `semi_structured` and `huggingface` (a zip) exist where the job asked for them (`export`).
    """
    _, files = read_files(services, caller.project, id)
    # Files of the report are stored beside the checkpoints, under this name.
    row = None if cid == REPORT else find_file(files, cid, format)
    if row is None:
        raise _explain_absence(files, cid, format)
    media = ARCH if format == "arch" else SAFETENSORS
    name = name_file(f"{id}-{cid}", format)
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return send_file(request, services.artifacts, row, media, headers)


def _explain_absence(files: list[ResultFile], cid: str, format: FileFormat) -> Exception:
    """Return the error for a file that is not there: what would have to be asked for."""
    formats = [file.format for file in files if file.checkpoint == cid and cid != REPORT]
    if formats and format in get_args(ExportFormat):
        return Problem(
            404,
            "not_found",
            f"checkpoint {cid} has no file in the format {format}; a job writes it where its "
            f'"export" lists {format!r} (the report warns where that failed); there are '
            f"{', '.join(formats)}",
        )
    return NotFoundError("checkpoint", f"{cid}?format={format}")
