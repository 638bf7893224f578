"""Families over HTTP on real workers: parallel, killed, paused, cancelled, adaptive."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.ladder_data import read_idx
from pruning.laws.stored import read_law
from pruning.schemas.family_report import FamilyReport
from secateur import Client
from tests.support.running import FAST, Running, free_port, part, ready, until
from tests.support.servers import Bucket, Postgresql, Valkey

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
MNIST = Path(__file__).parents[3] / "shared" / "data" / "mnist"
SMALL: dict[str, Any] = {
    "type": "family",
    "model": {"architecture": "mlp", "train": {"epochs": 4, "batch_size": 32, "rewind_epoch": 1}},
    "dataset": {"builtin": "digits"},
    "members": {"depths": [1, 2], "widths": [8, 16]},
    "keep": 0.5,
    "floor_density": 0.03,
}


def report_of(client: Client, job_id: str) -> FamilyReport:
    return FamilyReport.model_validate_json(client.jobs.report(job_id))


def members(client: Client, job_id: str) -> list[dict[str, Any]]:
    return [job.document() for job in client.jobs.list(parent=job_id)]


def ended(client: Client, job_id: str) -> int:
    return sum(member["terminal"] for member in members(client, job_id))


def check(client: Client, job_id: str, report: FamilyReport, networks: int) -> None:
    """Check that every member ran once, and that one law fits them all.

    The answer must have been trained, and `predict` must give the same one.
    """
    own = [row for row in members(client, job_id) if row["member"]["role"] == "member"]
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


def test_two_workers_on_postgresql_and_s3_one_killed(
    postgresql: Postgresql, s3: Bucket, valkey: Valkey, tmp_path: Path
) -> None:
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
    port = free_port()
    with ExitStack() as stack:
        stack.enter_context(part(environment, tmp_path / "api.log", "api", "--port", str(port)))
        workers = {
            name: stack.enter_context(part(environment, tmp_path / f"{name}.log", "worker"))
            for name in ("first", "second")
        }
        client = stack.enter_context(Client(f"http://127.0.0.1:{port}"))
        until(lambda: ready(client), "api and workers are ready")
        job = client.jobs.submit(SMALL)
        until(
            lambda: sum(row["status"] == "running" for row in members(client, job.id)) == 2,
            "two members run at once",
        )
        until(lambda: ended(client, job.id) >= 1, "a member has ended")
        os.killpg(workers["second"].pid, signal.SIGKILL)
        assert client.jobs.wait(job.id, timeout_s=400, interval_s=0.5).status == "succeeded"
        check(client, job.id, report_of(client, job.id), 4)
        logs = {
            "first": (tmp_path / "first.log").read_text(),
            "second": (tmp_path / "second.log").read_text(),
        }
        assert all("attempt 1" in text for text in logs.values())
        client.jobs.delete(job.id)
        assert members(client, job.id) == []


def test_pause_resume_cancel_retry(fresh: Callable[..., Running]) -> None:
    client = fresh().start().client
    job = client.jobs.submit(SMALL | {"confirm": False})
    until(lambda: ended(client, job.id) >= 1, "a member has ended")
    client.jobs.pause(job.id)
    until(
        lambda: {row["status"] for row in members(client, job.id)} <= {"paused", "succeeded"},
        "every member rests",
    )
    until(
        lambda: client.jobs.get(job.id).status == "paused",
        "a turn under way ends, and the family rests",
    )
    client.jobs.resume(job.id)
    until(lambda: ended(client, job.id) >= 2, "another member has ended")
    alone = next(row["id"] for row in members(client, job.id) if not row["terminal"])
    client.jobs.cancel(alone)
    until(
        lambda: client.jobs.get(alone).status == "cancelled",
        "one member is cancelled, the family goes on",
    )
    assert client.jobs.wait(job.id, timeout_s=200, interval_s=0.3).status == "succeeded"
    report = report_of(client, job.id)
    assert [failure.code for failure in report.failures] == ["member_cancelled"]
    assert sum(member.status == "succeeded" for member in report.members) == 3

    other = client.jobs.submit(SMALL | {"confirm": False})
    until(lambda: ended(client, other.id) >= 1, "a member has ended")
    client.jobs.cancel(other.id)
    until(
        lambda: {row["status"] for row in members(client, other.id)} <= {"cancelled", "succeeded"},
        "every member stops",
    )
    until(lambda: client.jobs.get(other.id).status == "cancelled", "a turn under way stops")
    assert report_of(client, other.id).partial
    client.jobs.retry(other.id)
    assert client.jobs.wait(other.id, timeout_s=200, interval_s=0.3).status == "succeeded"
    assert all(row["status"] == "succeeded" for row in members(client, other.id))


def test_adaptive_and_synflow(fresh: Callable[..., Running]) -> None:
    client = fresh(workers=2).start().client
    job = client.jobs.submit(
        SMALL
        | {
            "members": {"depths": [1, 2], "widths": [8, 16, 32], "fractions": [0.5, 1.0]},
            "method": "synflow",
            "model": {"architecture": "mlp", "train": {"epochs": 4, "batch_size": 32}},
            "floor_density": 0.1,
            "adaptive": {"band": 0.9, "max_members": 7},
            "confirm": False,
        }
    )
    assert client.jobs.wait(job.id, timeout_s=500, interval_s=0.5).status == "succeeded"
    report = report_of(client, job.id)
    run = [member for member in report.members if member.job is not None]
    assert 5 <= len(run) <= 7
    assert {member.status for member in report.members if member.job is None} == {"planned"}
    assert all(
        member.densities == pytest.approx([0.5**i for i in range(1, member.rounds + 1)], abs=0.01)
        for member in run
    )
    assert any("Adaptive" in note for note in report.sections["scaling_law"].notes)


@pytest.mark.skipif(not MNIST.exists(), reason="../shared/data is not here")
def test_family_on_mnist_with_one_of_two_workers_killed(
    fresh: Callable[..., Running], tmp_path: Path
) -> None:
    running = fresh(workers=2, SECATEUR_CHECKPOINT_STEPS="200").start()
    client = running.client
    columns = {
        f"{split}_{axis}": read_idx(MNIST / f"{name}-{kind}-ubyte.gz")
        for split, name in (("train", "train"), ("test", "t10k"))
        for axis, kind in (("x", "images-idx3"), ("y", "labels-idx1"))
    }
    np.savez(
        tmp_path / "mnist.npz",
        train_x=columns["train_x"][:4000, None],
        train_y=columns["train_y"][:4000].astype(int),
        test_x=columns["test_x"][:, None],
        test_y=columns["test_y"].astype(int),
    )
    dataset = client.datasets.upload(tmp_path / "mnist.npz")
    job = client.jobs.submit(
        {
            "type": "family",
            "dataset": {"id": dataset.id},
            "model": {
                "architecture": "mlp",
                "train": {
                    "epochs": 8,
                    "batch_size": 64,
                    "optimizer": {"lr": 0.03},
                    "rewind_epoch": 2,
                },
            },
            "members": {"depths": [1, 3], "widths": [8, 16, 32], "fractions": [0.25, 1.0]},
            "keep": 0.5,
            "floor_density": 0.015,
            "max_error": [0.1],
        }
    )
    until(lambda: ended(client, job.id) >= 4, "a third of the members have ended", 600)
    os.kill(running.workers()[-1], signal.SIGKILL)
    assert client.jobs.wait(job.id, timeout_s=1300, interval_s=1).status == "succeeded"
    report = report_of(client, job.id)
    check(client, job.id, report, 12)
    assert all(
        member.unpruned_error is not None and member.unpruned_error >= 0.03
        for member in report.members
    )
    assert all(len(member.densities) == 6 for member in report.members)
    assert read_law(json.dumps(report.law)).kind == "joint"
    (answer,) = report.answers
    assert answer.measured is not None
    assert answer.predicted is not None
    assert answer.measured.n == 10_000
    assert answer.measured.value == pytest.approx(answer.predicted.value, rel=0.25)
