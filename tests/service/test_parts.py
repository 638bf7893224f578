"""API and workers as separate processes, on PostgreSQL, S3 and a broker of their own.

The code is the same; three settings differ.
"""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from pruning.data.builtin import datasets
from secateur import Client
from tests.support.family_jobs import (
    SMALL_FAMILY,
    check_family,
    count_ended,
    list_members,
    read_family_report,
)
from tests.support.running import FAST, free_port, part, ready, until
from tests.support.servers import Bucket, Postgresql, Valkey

pytestmark = pytest.mark.slow


@pytest.mark.timeout(900)
def test_two_workers_on_postgresql_and_s3(
    postgresql: Postgresql, s3: Bucket, valkey: Valkey, tmp_path: Path
) -> None:
    """One worker hands a job back to the other; then one is killed in the middle of a family."""
    environment = (
        {name: value for name, value in os.environ.items() if not name.startswith("SECATEUR_")}
        | FAST
        | {
            "SECATEUR_DATABASE_URL": postgresql.new_database(),
            "SECATEUR_BROKER_URL": valkey.url,
            "SECATEUR_ARTIFACT_URL": s3.url,
            "SECATEUR_S3_ENDPOINT": s3.endpoint,
            "SECATEUR_WORK_DIR": str(tmp_path),
        }
    )
    digits = datasets.create("digits").load()
    np.savez(
        tmp_path / "digits.npz",
        train_x=digits.images["train"],
        train_y=digits.labels["train"],
        test_x=digits.images["test"],
        test_y=digits.labels["test"],
    )
    port = free_port()
    with ExitStack() as stack:
        stack.enter_context(part(environment, tmp_path / "api.log", "api", "--port", str(port)))
        workers = {
            name: stack.enter_context(part(environment, tmp_path / f"{name}.log", "worker"))
            for name in ("first", "second")
        }
        client = stack.enter_context(Client(f"http://127.0.0.1:{port}"))
        until(lambda: ready(client), "api and worker are ready")
        dataset = client.datasets.upload(tmp_path / "digits.npz")
        job = client.jobs.submit(
            {
                "type": "prune",
                "model": {"architecture": "mlp", "train": {"epochs": 3}},
                "dataset": {"id": dataset.id},
                "targets": {"sparsity": [0.5, 0.9]},
                "retrain": {"epochs": 8, "batch_size": 8},
                "evaluations": [{"name": "accuracy"}],
            }
        )
        until(
            lambda: list(tmp_path.glob("secateur-*-job*/stages/*round-0-001.partial*")),
            "the first round retrains",
        )
        holder = next(name for name in workers if job.id in (tmp_path / f"{name}.log").read_text())
        workers[holder].send_signal(signal.SIGTERM)
        assert workers[holder].wait(60) == 0
        assert client.jobs.wait(job.id, timeout_s=120, interval_s=0.2).status == "succeeded"
        other = next(name for name in workers if name != holder)
        assert job.id in (tmp_path / f"{other}.log").read_text()
        results = client.jobs.results(job.id)
        path = client.jobs.download(job.id, "magnitude-0.9", tmp_path / "sparse")
        assert path.stat().st_size == results.checkpoints[-1].size_bytes["sparse"]
        attempts = [event for event in client.jobs.events(job.id) if event.type == "attempt"]
        assert attempts == []
        client.jobs.delete(job.id)
        client.datasets.delete(dataset.id)

        workers["third"] = stack.enter_context(part(environment, tmp_path / "third.log", "worker"))
        family = client.jobs.submit(SMALL_FAMILY)
        until(
            lambda: sum(row["status"] == "running" for row in list_members(client, family.id)) == 2,
            "two members run at once",
        )
        until(lambda: count_ended(client, family.id) >= 1, "a member has ended")
        os.killpg(workers["third"].pid, signal.SIGKILL)
        assert client.jobs.wait(family.id, timeout_s=400, interval_s=0.5).status == "succeeded"
        check_family(client, family.id, read_family_report(client, family.id), 4)
        own = {row["id"] for row in list_members(client, family.id)}
        for name in (other, "third"):
            log = (tmp_path / f"{name}.log").read_text()
            assert any(id in log for id in own), f"{name} ran no member"
        client.jobs.delete(family.id)
        assert list_members(client, family.id) == []
