"""Checking and accepting a job: record it, commit, then wake the relay."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from api.checks import (
    Spec,
    check_methods,
    find_backbone,
    find_inputs,
    find_pruned_models,
    find_shifted_sets,
    name_architecture,
    parse_spec,
    read_catalogue,
    read_model_id,
    read_second_model_id,
)
from api.schemas.jobs import JobEstimate, JobView, Validation
from api.schemas.wall_times import WallTime
from api.services import Services
from api.views import build_view
from api.wall_times import estimate_wall_times
from pruning.schemas.evaluate import EvaluateSpec, list_pruned_ids
from pruning.schemas.job import JobSpec, list_shifted_ids
from tasks.store import assets, jobs
from tasks.store.errors import NotFoundError
from tasks.store.tables import Dataset, Idempotency, Model

POLL_S = 0.25


def dump_spec(spec: Spec) -> dict[str, Any]:
    """Return the job as it was submitted, normalised; fields that were left out stay out."""
    return spec.model_dump(mode="json", exclude_unset=True)


def read_spec(services: Services, body: Any) -> Spec:
    """Return the job of a request's body, its architecture under the registered name."""
    spec = parse_spec(body)
    with services.store.read() as session:
        catalogue = assets.read_catalogue(session)
    return spec if catalogue is None else name_architecture(spec, catalogue[0])


async def check_job(services: Services, project: str, spec: Spec) -> Validation:
    """Return a job's estimated cost, its recipe with all defaults and its normalised spec.

    Raises the problem that forbids the job.
    """
    payload = await run_in_threadpool(_build_payload, services, project, spec)
    estimate = await services.helpers.estimate(payload)
    if isinstance(spec, EvaluateSpec) or (isinstance(spec, JobSpec) and spec.replicates == 1):
        times = await run_in_threadpool(_estimate_wall_times, services, project, estimate)
        estimate = estimate | {"wall_times": times}
    recipe = spec.recipe() if isinstance(spec, JobSpec) else spec
    return Validation(
        valid=True,
        estimate=JobEstimate(**estimate),
        recipe=recipe.model_dump(mode="json"),
        spec=dump_spec(spec),
        preprocessing=estimate.get("preprocessing"),
    )


def _estimate_wall_times(
    services: Services, project: str, estimate: dict[str, Any]
) -> list[WallTime]:
    """Return how long a job of this estimate should take on the machines of the service."""
    with services.store.read() as session:
        return estimate_wall_times(session, project, estimate)


def _build_payload(services: Services, project: str, spec: Spec) -> dict[str, Any]:
    """Return what the helper has to know for an estimate.

    Raises a problem where the catalogue or the store contradicts the job.
    """
    with services.store.read() as session:
        check_methods(spec, read_catalogue(session)[0])
        model, dataset = find_inputs(session, project, spec)
        shifted = find_shifted_sets(session, project, spec)
        backbone = find_backbone(session, project, spec)
        pruned = find_pruned_models(session, project, spec, model)
    return {
        "spec": dump_spec(spec),
        "model": None if model is None else _describe_model(model),
        "dataset": None if dataset is None else _describe_images(dataset),
        "shifted": [_describe_images(row) for row in shifted],
        "pruned": [_describe_model(row) for row in pruned],
        "backbone": None if backbone is None else _describe_model(backbone),
        "most_data_bytes": services.settings.job_data_bytes,
    }


def _describe_model(row: Model) -> dict[str, Any]:
    return {
        "architecture": row.architecture,
        "kwargs": row.kwargs,
        "normalize": row.normalize,
        "source": row.source,
        "preprocessing": row.preprocessing,
        "zeros": row.zeros,
        "classes": row.classes,
        "parameters": row.parameters,
        "prunable": row.prunable,
        "modules": row.modules,
    }


def _describe_images(row: Dataset) -> dict[str, Any]:
    return {
        "shape": row.shape,
        "classes": row.classes,
        "counts": row.counts,
        "groups": row.groups,
        "task": row.task,
        "guessing_error": row.guessing_error,
        "sizes": row.sizes,
        "normalize": row.normalize,
        "preprocessing": row.preprocessing,
    }


async def submit(
    services: Services, project: str, spec: Spec, key: str | None
) -> tuple[JobView, bool]:
    """Store the job, or find the one that this idempotency key created.

    Returns the job and whether it was created now.
    """
    body = dump_spec(spec)
    sha256 = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    new = jobs.NewJob(
        project=project,
        spec=body,
        model_id=read_model_id(spec),
        rewind_model_id=read_second_model_id(spec),
        dataset_id=spec.dataset.id,
        shifted_ids=frozenset(list_shifted_ids(body)),
        pruned_ids=frozenset(list_pruned_ids(body)),
        priority=spec.priority,
        deadline_s=spec.deadline_s,
        labels=dict(spec.labels),
    )

    async def create(new: jobs.NewJob, *, checked: bool) -> tuple[JobView, bool] | None:
        return await run_in_threadpool(_create, services, new, key, sha256, checked=checked)

    result = None
    if key is not None:  # a job that exists already needs no estimate
        result = await create(new, checked=False)
    if result is None:
        validation = await check_job(services, project, spec)
        new = replace(new, progress_total=validation.estimate.units)
        try:
            result = await create(new, checked=True)
        except IntegrityError:  # another request with this key committed first
            result = await create(new, checked=True)
    assert result is not None
    _, created = result
    if created:
        services.wake.set()
    return result


def _create(
    services: Services, new: jobs.NewJob, key: str | None, sha256: str, *, checked: bool
) -> tuple[JobView, bool] | None:
    """Return the job of this key and whether it was created now.

    None when the job does not exist yet and has not been checked, either.
    """
    with services.store.write() as session:
        if key is None or session.get(Idempotency, (new.project, key)) is None:
            if not checked:
                return None
            keep_inputs(
                session,
                [new.model_id, new.rewind_model_id, *new.pruned_ids],
                [new.dataset_id, *new.shifted_ids],
            )
        row, created = jobs.create(session, new, idempotency_key=key, request_sha256=sha256)
        return build_view(session, row), created


def keep_inputs(
    session: Session, models: Sequence[str | None], datasets: Sequence[str | None]
) -> None:
    """Lock the inputs of a job until it is committed, so that none is deleted in between.

    Raises `NotFoundError` for an input that was deleted before.
    """
    inputs: list[tuple[type[Model | Dataset], str]] = []
    # In one order, so that two jobs never wait for each other's locks.
    inputs += [(Model, id) for id in sorted(filter(None, models))]
    inputs += [(Dataset, id) for id in sorted(filter(None, datasets))]
    for kind, id in inputs:
        query = select(kind.id).where(kind.id == id).with_for_update(read=True)
        if session.scalar(query) is None:
            raise NotFoundError(kind.NOUN, id)


async def wait_until_ended(
    services: Services, project: str, job: JobView, wait_s: float
) -> JobView:
    """Return the job as it is when it has ended, or when `wait_s` seconds have passed.

    No transaction is open while it waits.
    """

    def read() -> JobView:
        with services.store.read() as session:
            return build_view(session, jobs.get(session, project, job.id))

    latest = job
    until = time.monotonic() + wait_s
    while not latest.terminal and time.monotonic() < until and not services.stopping.is_set():
        await asyncio.sleep(min(POLL_S, max(0.0, until - time.monotonic())))
        latest = await run_in_threadpool(read)
    return latest
