"""A small family of networks on a service, and what must be true of it at the end."""

from __future__ import annotations

from typing import Any

import pytest

from pruning.schemas.family_report import FamilyReport
from secateur import Client

SMALL_FAMILY: dict[str, Any] = {
    "type": "family",
    "model": {"architecture": "mlp", "train": {"epochs": 4, "batch_size": 32, "rewind_epoch": 1}},
    "dataset": {"builtin": "digits"},
    "members": {"depths": [1, 2], "widths": [8, 16]},
    "keep": 0.5,
    "floor_density": 0.03,
}


def read_family_report(client: Client, job_id: str) -> FamilyReport:
    return FamilyReport.model_validate_json(client.jobs.report(job_id))


def list_members(client: Client, job_id: str) -> list[dict[str, Any]]:
    return [job.document() for job in client.jobs.list(parent=job_id)]


def count_ended(client: Client, job_id: str) -> int:
    return sum(member["terminal"] for member in list_members(client, job_id))


def check_family(client: Client, job_id: str, report: FamilyReport, networks: int) -> None:
    """Check that every member ran once, and that one law fits them all.

    The answer must have been trained, and `predict` must give the same one.
    """
    own = [row for row in list_members(client, job_id) if row["member"]["role"] == "member"]
    assert len(own) == networks
    fields = ("depth", "width", "fraction", "seed")
    assert len({tuple(row["member"][field] for field in fields) for row in own}) == networks
    assert all(row["status"] == "succeeded" for row in own)
    assert report.law is not None
    assert not report.partial
    (answer,) = report.answers
    assert answer.predicted is not None
    assert answer.measured is not None
    assert answer.checkpoint is not None
    prediction = client.jobs.predict(job_id, max_error=answer.max_error)
    assert prediction["law"]["sigma"] == pytest.approx(
        report.sections["scaling_law"]
        .scalars["missed error of one run without sampling (sigma)"]
        .value
    )
    best = prediction["predictions"][0]
    assert (best["depth"], best["width"]) == (answer.depth, answer.width)
    results = client.jobs.results(job_id)
    (checkpoint,) = results.checkpoints
    assert checkpoint.id == answer.checkpoint
    assert checkpoint.error is not None
    assert checkpoint.error.value == answer.measured.value
