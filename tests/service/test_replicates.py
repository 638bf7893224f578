"""Replicates over HTTP on real workers: pooled, and with a worker killed, one cancelled, all
retried.
"""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from pruning.schemas.report import Report
from secateur import Client
from tests.support.running import Running, until
from tests.support.service_jobs import BASE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SPEC: dict[str, Any] = BASE | {
    "evaluations": [{"name": "accuracy"}],
    "gates": {"max_error_increase": 0.5},
    "replicates": 2,
}


def list_replicates(client: Client, job_id: str) -> list[dict[str, Any]]:
    """Return the replicates of a job as the service lists them."""
    return [job.document() for job in client.jobs.list(parent=job_id)]


def test_a_job_with_replicates_end_to_end(service: Running) -> None:
    client = service.client
    job = client.jobs.submit(SPEC)
    client.jobs.wait(job.id, timeout_s=300, interval_s=0.3)
    rows = list_replicates(client, job.id)
    assert {(row["status"], row["member"]["seed"]) for row in rows} == {
        ("succeeded", 0),
        ("succeeded", 1),
    }
    results = client.jobs.results(job.id)
    report = results.parsed_report()
    own = {row["id"]: client.jobs.results(row["id"]).parsed_report() for row in rows}
    for checkpoint in report.checkpoints:
        errors = [
            other.error.value
            for single in own.values()
            for other in single.checkpoints
            if other.id == checkpoint.id
        ]
        assert checkpoint.error.value == pytest.approx(sum(errors) / 2)
    assert {checkpoint.job for checkpoint in results.checkpoints} == set(own)
    assert report.recommendation.job in own
    assert results.recommended == report.recommendation.checkpoint
    for format in ("html", "md", "junit"):
        assert client.jobs.report(job.id, format=format)


def test_a_killed_worker_and_a_cancelled_replicate_lose_nothing(two_workers: Running) -> None:
    client = two_workers.client
    job = client.jobs.submit(SPEC | {"replicates": 3})
    until(
        lambda: any(row["status"] == "running" for row in list_replicates(client, job.id)),
        "a replicate runs",
    )
    os.kill(two_workers.workers()[-1], signal.SIGKILL)
    last = max(list_replicates(client, job.id), key=lambda row: row["member"]["seed"])["id"]
    client.jobs.cancel(last)
    assert client.jobs.wait(job.id, timeout_s=300, interval_s=0.5).status == "succeeded"
    rows = list_replicates(client, job.id)
    assert len(rows) == 3
    assert {row["member"]["seed"] for row in rows} == {0, 1, 2}
    report = Report.model_validate_json(client.jobs.report(job.id))
    assert sorted(row.status for row in report.replicates) == [
        "cancelled",
        "succeeded",
        "succeeded",
    ]
    assert [failure.code for failure in report.failures] == ["replicate_cancelled"]
    client.jobs.retry(job.id)
    assert client.jobs.wait(job.id, timeout_s=300, interval_s=0.5).status == "succeeded"
    report = Report.model_validate_json(client.jobs.report(job.id))
    assert [row.status for row in report.replicates] == ["succeeded"] * 3
    assert report.failures == ()
    runs = report.sections["replicates"].details["runs"]
    assert len(runs) == 3 * len(report.checkpoints)
