"""Jobs: submit, look at, steer and wait for them, and fetch their results."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pruning.schemas.comparison import Comparison
from pruning.schemas.evaluate import EvaluateSpec
from pruning.schemas.family import FamilySpec
from pruning.schemas.job import JobSpec
from secateur.errors import InvalidIdentifier, JobCancelled, JobFailed, WaitTimeout
from secateur.flow import Flow, Request, Sleep, Stream, call, route
from secateur.forecasts import Predictions, Validation
from secateur.operations.paging import pages
from secateur.wire import CheckpointResult, Job, Page, Results

Spec = JobSpec | FamilySpec | EvaluateSpec | Mapping[str, Any]
ReportFormat = Literal["json", "html", "md", "junit"]
Undecided = Literal["skip", "fail"]
"""The outcome of an undecided gate in JUnit XML."""
RESULT_FIELDS = tuple(Results.model_fields)


def submit(spec: Spec, *, idempotency_key: str | None = None) -> Flow[Job]:
    """Submit a job; the Idempotency-Key (made up unless given) lets a retried request start no
    second one.
    """
    headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
    request = Request(method="POST", path="/v1/jobs", json=_to_document(spec), headers=headers)
    return (yield from call(request)).parse(Job)


def evaluate(
    model: str,
    pruned: Mapping[str, str] | Sequence[str],
    dataset: str | Mapping[str, Any],
    *,
    idempotency_key: str | None = None,
    **fields: Any,
) -> Flow[Job]:
    """Submit a job that judges networks which were pruned elsewhere beside their dense original.

    `model` is the id of the dense one, `pruned` are the ids of the others, by the names that the
    report is to have for them or as a list, `dataset` is an id or the job's `dataset`, `fields` are
    its other fields (`gates`, `evaluations`, `shifts`, `seed`, `export`, `latency`, `labels`, ...).
    """
    networks = [{"id": id} for id in pruned]
    if isinstance(pruned, Mapping):
        networks = [{"id": id, "name": name} for name, id in pruned.items()]
    spec = {
        "type": "evaluate",
        "model": {"id": model},
        "pruned": networks,
        "dataset": {"id": dataset} if isinstance(dataset, str) else dict(dataset),
        **fields,
    }
    return (yield from submit(spec, idempotency_key=idempotency_key))


def validate(spec: Spec) -> Flow[Validation]:
    """Check a job without storing it; returns the estimate of rounds, steps, FLOPs and memory, and
    what is foreseen of its targets.
    """
    request = Request(
        method="POST", path="/v1/jobs", params={"validate_only": "true"}, json=_to_document(spec)
    )
    return (yield from call(request)).parse(Validation)


def get(job_id: str) -> Flow[Job]:
    """Return the job as it stands."""
    return (yield from call(Request(method="GET", path=route("v1", "jobs", job_id)))).parse(Job)


def listing(
    *,
    status: str | None = None,
    label: str | None = None,
    parent: str | None = None,
    limit: int | None = None,
) -> Stream[Job]:
    """Yield every job that matches, fetched `limit` at a time; `parent` is the id of a family, or
    `none` for jobs without one.
    """
    return (
        yield from pages(
            "/v1/jobs", Job, {"status": status, "label": label, "parent": parent, "limit": limit}
        )
    )


def members(job_id: str, *, status: str | None = None, limit: int | None = 100) -> Stream[Job]:
    """Yield the jobs of a family's members and of its answers, the newest first."""
    if job_id in ("", "none"):
        raise InvalidIdentifier(f"not an identifier: {job_id!r}")
    return (yield from listing(status=status, parent=job_id, limit=limit))


def delete(job_id: str) -> Flow[None]:
    """Delete a finished job and its artifacts."""
    yield from call(Request(method="DELETE", path=route("v1", "jobs", job_id)))


def cancel(job_id: str) -> Flow[Job]:
    """Cancel a job; repeating it does no harm."""
    request = Request(method="POST", path=route("v1", "jobs", job_id, "cancel"))
    return (yield from call(request)).parse(Job)


def pause(job_id: str) -> Flow[Job]:
    """Pause a job: its process ends now, and a resume goes on from the last saved step."""
    return (yield from _steer(job_id, "pause"))


def resume(job_id: str) -> Flow[Job]:
    """Queue a paused job again."""
    return (yield from _steer(job_id, "resume"))


def retry(job_id: str) -> Flow[Job]:
    """Queue a failed or cancelled job again; it goes on from what it finished."""
    return (yield from _steer(job_id, "retry"))


def _steer(job_id: str, verb: str) -> Flow[Job]:
    request = Request(method="POST", path=route("v1", "jobs", job_id, verb), retry="unsent")
    return (yield from call(request)).parse(Job)


def wait(
    job_id: str, *, timeout_s: float | None = None, interval_s: float = 2.0, check: bool = True
) -> Flow[Job]:
    """Poll until the job ends; raises `WaitTimeout`, and with `check` `JobFailed` or
    `JobCancelled`.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while not (job := (yield from get(job_id))).terminal:
        remaining = interval_s if deadline is None else deadline - time.monotonic()
        if timeout_s is not None and remaining <= 0:
            raise WaitTimeout(job_id, timeout_s)
        yield Sleep(min(interval_s, remaining))
    if check and job.status == "failed":
        raise JobFailed(job)
    if check and job.status == "cancelled":
        raise JobCancelled(job)
    return job


def results(job_id: str, *, fields: Sequence[str] | None = None) -> Flow[Results]:
    """Return checkpoints, report, recommendation and gates; raises `ApiError` 409
    `job_not_finished` before the end.

    With `fields` only the job and these are fetched, and the others are empty: `recommendation`,
    `gates`, `joint`, `checkpoints`, `report`, or a part of the report as in `report.model`.
    """
    params: dict[str, str] = {}
    if fields is not None:
        params["fields"] = ",".join(dict.fromkeys(("job", *map(_check_field, fields))))
    path = route("v1", "jobs", job_id, "results")
    return (yield from call(Request(method="GET", path=path, params=params))).parse(Results)


def _check_field(field: str) -> str:
    """Return a field of results; raises `InvalidIdentifier` for a part of a typed object."""
    if field in RESULT_FIELDS or field.startswith("report."):
        return field
    known = ", ".join(RESULT_FIELDS)
    raise InvalidIdentifier(f"not a field of results: {field!r}; there are {known}, report.<name>")


def compare(*job_ids: str, model: str | None = None) -> Flow[Comparison]:
    """Compare finished jobs on the test images that they share, the first with each other one, or
    all checkpoints of a `model`; with the Pareto fronts of validation error against costs.
    """
    params: dict[str, Any] = {"job": list(job_ids)} if job_ids else {}
    if model is not None:
        params["model"] = model
    request = Request(method="GET", path="/v1/compare", params=params)
    return (yield from call(request)).parse(Comparison)


def checkpoints(job_id: str) -> Flow[tuple[CheckpointResult, ...]]:
    """Return the checkpoints that a job has finished, also while it runs."""
    request = Request(method="GET", path=route("v1", "jobs", job_id, "checkpoints"))
    rows = (yield from call(request)).parse(Page).data
    return tuple(CheckpointResult.model_validate(row) for row in rows)


def report(
    job_id: str, *, format: ReportFormat = "json", undecided: Undecided = "skip"
) -> Flow[bytes]:
    """Return the report as a file: JSON, self-contained HTML, Markdown or JUnit XML, in which gates
    that are undecided are skipped, or fail.
    """
    params: dict[str, str] = {"format": format}
    if undecided == "fail":
        params["undecided"] = undecided
    request = Request(method="GET", path=route("v1", "jobs", job_id, "report"), params=params)
    return (yield from call(request)).content


def predict(  # noqa: PLR0913 - the fields of a question, by keyword
    job_id: str,
    *,
    densities: Sequence[float] | None = None,
    max_error: float | None = None,
    criterion: str | None = None,
    confidence: float = 0.9,
    of: Literal["run", "curve"] = "run",
    depth: float | None = None,
    width: float | None = None,
) -> Flow[Predictions]:
    """Return the predictions of the job's scaling law: errors at `densities`, or the smallest
    density for `max_error`, with bands of one more run, or of the curve, the mean of many runs.

    A family's law predicts for all its networks, or for those of that `depth` and `width`.
    """
    fields = {
        "densities": None if densities is None else list(densities),
        "max_error": max_error,
        "criterion": criterion,
        "confidence": confidence,
        "of": of,
        "depth": depth,
        "width": width,
    }
    question = {name: value for name, value in fields.items() if value is not None}
    request = Request(method="POST", path=route("v1", "jobs", job_id, "predict"), json=question)
    return (yield from call(request)).parse(Predictions)


def _to_document(spec: Spec) -> dict[str, Any]:
    if isinstance(spec, JobSpec | FamilySpec | EvaluateSpec):
        return spec.model_dump(mode="json", exclude_unset=True)
    return dict(spec)
