"""Checking and accepting a job: record, commit, then ring the doorbell."""

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
    find_inputs,
    find_shifted_sets,
    read_catalogue,
    read_model_id,
    read_rewind_id,
)
from api.schemas.jobs import Estimate, JobView, Validation
from api.services import Services
from api.views import build_view
from pruning.schemas.job import JobSpec
from tasks.store import jobs
from tasks.store.errors import NotFoundError
from tasks.store.tables import Dataset, Idempotency, Model

POLL_S = 0.25


def dump_spec(spec: Spec) -> dict[str, Any]:
    """The job as submitted, normalised; what was left out stays out."""
    return spec.model_dump(mode="json", exclude_unset=True)


async def check_job(services: Services, project: str, spec: Spec) -> Validation:
    """Everything that can be known about a job before it runs; raises the problem that forbids
    it.
    """
    estimate = await services.helpers.estimate(
        await run_in_threadpool(_build_question, services, project, spec)
    )
    recipe = (
        spec.recipe().model_dump(mode="json")
        if isinstance(spec, JobSpec)
        else spec.model_dump(mode="json")
    )
    return Validation(
        valid=True, estimate=Estimate(**estimate), recipe=recipe, spec=dump_spec(spec)
    )


def _build_question(services: Services, project: str, spec: Spec) -> dict[str, Any]:
    """What the helper has to know for an estimate; raises what the catalogue and the store find
    wrong.
    """
    with services.store.read() as session:
        check_methods(spec, read_catalogue(session)[0])
        model, dataset = find_inputs(session, project, spec)
        shifted = find_shifted_sets(session, project, spec)
    return {
        "spec": dump_spec(spec),
        "model": None
        if model is None
        else {
            "architecture": model.architecture,
            "kwargs": model.kwargs,
            "normalize": model.normalize,
            "classes": model.classes,
        },
        "dataset": None
        if dataset is None
        else {
            "shape": dataset.shape,
            "classes": dataset.classes,
            "counts": dataset.counts,
            "task": dataset.task,
        },
        "shifted": [
            {"shape": one.shape, "classes": one.classes, "counts": one.counts, "task": one.task}
            for one in shifted
        ],
    }


async def submit(
    services: Services, project: str, spec: Spec, key: str | None
) -> tuple[JobView, bool]:
    """Keep the job, or find the one this idempotency key made; the second value says which."""
    body = dump_spec(spec)
    sha256 = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    new = jobs.NewJob(
        project=project,
        spec=body,
        model_id=read_model_id(spec),
        rewind_model_id=read_rewind_id(spec),
        dataset_id=spec.dataset.id,
        shifted_ids=frozenset(jobs.list_shifted_ids(body)),
        priority=spec.priority,
        deadline_s=spec.deadline_s,
        labels=dict(spec.labels),
    )

    async def create(new: jobs.NewJob, *, checked: bool) -> tuple[JobView, bool] | None:
        return await run_in_threadpool(_create, services, new, key, sha256, checked=checked)

    found = None if key is None else await create(new, checked=False)
    if found is None:
        new = replace(new, progress_total=(await check_job(services, project, spec)).estimate.units)
        try:
            found = await create(new, checked=True)
        except IntegrityError:  # another request with this key committed first
            found = await create(new, checked=True)
    assert found is not None
    if found[1]:
        services.wake.set()
    return found


def _create(
    services: Services, new: jobs.NewJob, key: str | None, sha256: str, *, checked: bool
) -> tuple[JobView, bool] | None:
    """The job made now or by this key before; None when it would have to be made and is not checked
    yet.
    """
    with services.store.write() as session:
        if key is None or session.get(Idempotency, (new.project, key)) is None:
            if not checked:
                return None
            keep_inputs(
                session, [new.model_id, new.rewind_model_id], [new.dataset_id, *new.shifted_ids]
            )
        row, created = jobs.create(session, new, idempotency_key=key, request_sha256=sha256)
        return build_view(session, row), created


def keep_inputs(
    session: Session, models: Sequence[str | None], datasets: Sequence[str | None]
) -> None:
    """Lock what the job uses until it is committed, so that no deletion slips between;
    `NotFoundError` if one did.
    """
    inputs: list[tuple[type[Model | Dataset], str | None]] = [(Model, id) for id in models]
    inputs += [
        (Dataset, id) for id in sorted(filter(None, datasets))
    ]  # one order: two jobs never wait for each other
    for kind, id in inputs:
        if (
            id is not None
            and session.scalar(select(kind.id).where(kind.id == id).with_for_update(read=True))
            is None
        ):
            raise NotFoundError(kind.__tablename__.removesuffix("s"), id)


async def wait_until_ended(
    services: Services, project: str, found: JobView, wait_s: float
) -> JobView:
    """The job as it is when it has ended, or when `wait_s` have passed; holds no transaction
    meanwhile.
    """

    def look() -> JobView:
        with services.store.read() as session:
            return build_view(session, jobs.get(session, project, found.id))

    until = time.monotonic() + wait_s
    while not found.terminal and time.monotonic() < until and not services.stopping.is_set():
        await asyncio.sleep(min(POLL_S, max(0.0, until - time.monotonic())))
        found = await run_in_threadpool(look)
    return found
