"""Finished jobs compared on the same images, and the Pareto front of a model's checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Query
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.access import Reader
from api.errors import Fault, Problem, build_problem
from api.http.files import read_file
from api.routes.results import REPORT, find_file, require_ended
from api.schemas.problem import describe_problems
from api.services import Services, ServicesDep
from pruning.schemas.comparison import Comparison
from pruning.schemas.job import Identifier
from pruning.schemas.report import Report
from tasks.store import assets, jobs
from tasks.store.tables import Job, Model, ResultFile

if TYPE_CHECKING:
    from pruning.analysis.compared_jobs import ComparedJob

router = APIRouter(prefix="/v1/compare", tags=["results"])
MOST_JOBS = 16
"""The largest number of jobs that are named in a comparison."""
MOST_OF_MODEL = 50
"""The largest number of a model's jobs whose checkpoints are on its front, the newest."""
JobIds = Annotated[
    list[Identifier] | None,
    Query(description="jobs to compare, the first with each other one", max_length=MOST_JOBS),
]


@router.get(
    "",
    operation_id="compare_jobs",
    summary="Compare finished jobs",
    responses=describe_problems(404, 409, 422),
)
def compare(
    services: ServicesDep,
    caller: Reader,
    job: JobIds = None,
    model: Annotated[
        Identifier | None,
        Query(description="instead of jobs: the fronts over all checkpoints of this model"),
    ] = None,
) -> Comparison:
    """Compare jobs on one dataset, image by image: `?job=…&job=…`, or `?model=…`.

    Errors are compared on the test images that the jobs share: the first job with each other one,
    at equal targets and between the recommended checkpoints, with exact tests that hold together.
    The Pareto fronts are over all networks, of validation error against bytes, FLOPs and
    milliseconds. With `model` they are over the checkpoints of its jobs on the dataset of the
    newest one. Jobs of families and of replicates are compared by their members.
    """
    with services.store.read() as session:
        if (job is None) == (model is None):
            message = "name jobs, as in ?job=…&job=…, or a model"
            raise build_problem([Fault("", "invalid_parameter", message, "job")])
        if job is not None:
            rows = _find_jobs(session, caller.project, job)
        else:
            assert model is not None
            assets.get(session, Model, caller.project, model)
            rows = _list_jobs_of_model(session, caller.project, model)
        files = [jobs.list_result_files(session, row.id) for row in rows]
    return _compare(services, rows, files, by_name=job is not None)


def _find_jobs(session: Session, project: str, ids: list[str]) -> list[Job]:
    """Return the jobs of these ids, which must be different ones that have ended."""
    if len(set(ids)) < 2 or len(set(ids)) < len(ids):
        message = "name two or more different jobs"
        raise build_problem([Fault("", "invalid_parameter", message, "job")])
    rows = [jobs.get(session, project, id) for id in ids]
    for row in rows:
        require_ended(row)
    return rows


def _list_jobs_of_model(session: Session, project: str, model: str) -> list[Job]:
    """Return the newest jobs of a model that succeeded."""
    query = select(Job).where(
        Job.project == project, Job.model_id == model, Job.status == "succeeded"
    )
    return list(session.scalars(query.order_by(Job.id.desc()).limit(MOST_OF_MODEL)))


def _compare(
    services: Services, rows: list[Job], files: list[list[ResultFile]], *, by_name: bool
) -> Comparison:
    from pruning.analysis.compared_jobs import compare_jobs
    from pruning.errors import DataError

    compared, notes = [], []
    for row, own_files in zip(rows, files, strict=True):
        read = _read_job(services, own_files, with_images=by_name)
        if read is not None:
            compared.append(read)
        elif by_name:
            detail = (
                f"job {row.id} has no errors on single images: it finished no checkpoint, is a "
                "family or has replicates (name its members), or ran before version 0.2.0"
            )
            raise Problem(409, "not_comparable", detail)
    if not compared:
        raise Problem(409, "not_comparable", "no job of this model has checkpoints to compare")
    if not by_name:
        newest = compared[0].report.data
        alike = [job for job in compared if job.report.data.sha256 == newest.sha256]
        if len(alike) < len(compared):
            others = len(compared) - len(alike)
            notes.append(f"Of its jobs {others} are left out: they are not on {newest.name}.")
        compared = alike
    try:
        comparison = compare_jobs(compared, paired=by_name)
    except DataError as error:
        raise Problem(409, "not_comparable", error.message) from None
    return comparison.model_copy(update={"notes": (*comparison.notes, *notes)})


def _read_job(
    services: Services, files: list[ResultFile], *, with_images: bool
) -> ComparedJob | None:
    """Return a job with its report, and with the errors on each image; None where it has none."""
    from safetensors.numpy import load

    from pruning.analysis.compared_jobs import ComparedJob

    report = find_file(files, REPORT, "json")
    images = find_file(files, REPORT, "images")
    if report is None or (with_images and images is None):
        return None
    try:
        parsed = Report.model_validate_json(read_file(services.artifacts, report))
    except ValidationError:
        return None  # a family, or a report of another version
    if not with_images or images is None:
        return ComparedJob(parsed)
    tensors = load(read_file(services.artifacts, images))
    # A replicate's file holds pictures too.
    return ComparedJob(
        parsed, {name: tensor for name, tensor in tensors.items() if not name.startswith("picture")}
    )
