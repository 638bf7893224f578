"""A small pruning job on a running service, and how it is run."""

from __future__ import annotations

from typing import Any

from pruning.schemas.report import Report
from tests.support.running import Running

TRAIN = {"epochs": 4, "rewind_epoch": 1}
SMALL: dict[str, Any] = {"builtin": "digits", "limit": {"train": 600, "test": 200}}
BASE: dict[str, Any] = {
    "type": "prune",
    "model": {"architecture": "mlp", "train": TRAIN},
    "dataset": SMALL,
    "targets": {"sparsity": [0.8, 0.5]},
    "evaluations": [{"name": "accuracy"}],
}


def run_job(service: Running, spec: dict[str, object]) -> Report:
    """Submit a job, wait for its end and return its report."""
    job = service.client.jobs.submit(spec)
    service.client.jobs.wait(job.id, timeout_s=150, interval_s=0.2)
    return service.client.jobs.results(job.id).parsed_report()
