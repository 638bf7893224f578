"""The worker: a Celery consumer whose threads each supervise one job process.

Torch is never imported in this process.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

from celery import signals

from tasks.artifacts import open_artifacts
from tasks.fetch_datasets import fetch_forever
from tasks.helper import run_helper
from tasks.queue import RUN_JOB, make_app
from tasks.reaper import reap_forever
from tasks.relay import relay_forever
from tasks.run_job import Runner
from tasks.settings import Settings
from tasks.store import Store
from tasks.store.assets import publish_catalogue

logger = logging.getLogger(__name__)


def run(concurrency: int) -> int:
    """Publish the catalogue, then work until SIGTERM or SIGINT; return the exit status.

    Running jobs are then handed back, and another worker resumes them.
    """
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    settings = Settings()
    if settings.plugin_path:
        os.environ["SECATEUR_PLUGIN_PATH"] = settings.plugin_path
    store = Store(settings.database_url)
    store.create_tables()
    artifacts = open_artifacts(settings.artifact_url, s3_endpoint=settings.s3_endpoint)
    runner = Runner(store, artifacts, settings, concurrency)
    catalogue = run_helper("catalogue", {})
    with store.write() as session:
        publish_catalogue(session, catalogue)
    app = make_app(settings)

    @app.task(name=RUN_JOB)  # type: ignore[untyped-decorator]
    def run_job(job_id: str) -> None:
        runner.run(job_id)

    def stop(**_: Any) -> None:
        runner.stopping.set()

    signals.worker_shutting_down.connect(stop, weak=False)
    wake = threading.Event()
    reaper = threading.Thread(target=reap_forever, args=(runner,), daemon=True)
    relay = threading.Thread(
        target=relay_forever, args=(store, settings, runner.stopping, wake), daemon=True
    )
    fetching = threading.Thread(target=fetch_forever, args=(runner,), daemon=True)
    reaper.start()
    fetching.start()
    relay.start()
    worker = app.Worker(
        pool="threads",
        concurrency=concurrency,
        loglevel="INFO",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    try:
        worker.start()
    finally:
        runner.stopping.set()
        wake.set()
        reaper.join(timeout=5)
        relay.join(timeout=5)
        fetching.join(timeout=5)
        store.close()
    return int(worker.exitcode or 0)
