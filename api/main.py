"""The application: routes, problem handler, lifespan. `run` serves it."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

import tasks.relay
from api import errors, openapi
from api.helper_pool import HelperPool
from api.http import envelope
from api.metrics import Metrics
from api.routes import (
    comparisons,
    datasets,
    events,
    health,
    jobs,
    keys,
    methods,
    models,
    predictions,
    presets,
    results,
    web,
)
from api.server import run
from api.services import Services
from api.settings import ApiSettings
from api.uploads import remove_abandoned
from tasks.artifacts import open_artifacts
from tasks.store import Store

__all__ = ["create_app", "run"]

DESCRIPTION = (
    "Upload a network and a dataset, submit a job, poll it, download sparse checkpoints and a "
    "report.\n\n"
    "Every refusal is an `application/problem+json` document; decide by its `code`. "
    "Lists are pages: follow `next_cursor`.\n"
)


def create_app(settings: ApiSettings | None = None) -> FastAPI:
    """Return the HTTP side of the service; its connections open when it starts."""
    settings = settings or ApiSettings()
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services = await run_in_threadpool(_open_services, settings, metrics)
        app.state.services = services
        stop = threading.Event()
        relay = threading.Thread(
            target=tasks.relay.relay_forever,
            name="relay",
            daemon=True,
            args=(services.store, settings, stop, services.wake),
        )
        relay.start()
        try:
            yield
        finally:
            services.stopping.set()
            stop.set()
            services.wake.set()
            await run_in_threadpool(relay.join, 5.0)
            services.store.close()

    app = FastAPI(
        title="Secateur",
        version="1",
        summary="Pruning as a service",
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    for module in (
        health,
        methods,
        presets,
        models,
        datasets,
        jobs,
        events,
        results,
        predictions,
        comparisons,
        keys,
        web,
    ):
        app.include_router(module.router)
    errors.install(app)
    envelope.wrap(app, metrics)
    app.openapi = lambda: openapi.describe(app)  # type: ignore[method-assign]
    return app


def _open_services(settings: ApiSettings, metrics: Metrics) -> Services:
    store = Store(settings.database_url)
    store.create_tables()
    remove_abandoned(settings.work_dir)
    artifacts = open_artifacts(settings.artifact_url, s3_endpoint=settings.s3_endpoint)
    helpers = HelperPool(
        settings.helpers,
        timeout_s=settings.helper_timeout_s,
        wait_s=settings.helper_wait_s,
        memory_limit_bytes=settings.memory_limit_bytes,
    )
    return Services(
        settings=settings, store=store, metrics=metrics, artifacts=artifacts, helpers=helpers
    )
