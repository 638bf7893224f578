"""Families over HTTP on real workers: parallel, killed, paused, cancelled, adaptive."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from examples.ladder_data import read_idx
from pruning.laws.stored import read_law
from tests.support.family_jobs import (
    SMALL_FAMILY,
    check_family,
    count_ended,
    list_members,
    read_family_report,
)
from tests.support.running import Running, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
MNIST = Path(__file__).parents[3] / "shared" / "data" / "mnist"


def test_pause_resume_cancel_retry(two_workers: Running) -> None:
    client = two_workers.client
    job = client.jobs.submit(SMALL_FAMILY | {"confirm": False})
    until(lambda: count_ended(client, job.id) >= 1, "a member has ended")
    client.jobs.pause(job.id)
    until(
        lambda: {row["status"] for row in list_members(client, job.id)} <= {"paused", "succeeded"},
        "every member rests",
    )
    until(
        lambda: client.jobs.get(job.id).status == "paused",
        "a turn under way ends, and the family rests",
    )
    client.jobs.resume(job.id)
    until(lambda: count_ended(client, job.id) >= 2, "another member has ended")
    alone = next(row["id"] for row in list_members(client, job.id) if not row["terminal"])
    client.jobs.cancel(alone)
    until(
        lambda: client.jobs.get(alone).status == "cancelled",
        "one member is cancelled, the family goes on",
    )
    assert client.jobs.wait(job.id, timeout_s=200, interval_s=0.3).status == "succeeded"
    report = read_family_report(client, job.id)
    assert [failure.code for failure in report.failures] == ["member_cancelled"]
    assert sum(member.status == "succeeded" for member in report.members) == 3

    other = client.jobs.submit(SMALL_FAMILY | {"confirm": False})
    until(lambda: count_ended(client, other.id) >= 1, "a member has ended")
    client.jobs.cancel(other.id)
    until(
        lambda: (
            {row["status"] for row in list_members(client, other.id)} <= {"cancelled", "succeeded"}
        ),
        "every member stops",
    )
    until(lambda: client.jobs.get(other.id).status == "cancelled", "a turn under way stops")
    assert read_family_report(client, other.id).partial
    client.jobs.retry(other.id)
    assert client.jobs.wait(other.id, timeout_s=200, interval_s=0.3).status == "succeeded"
    assert all(row["status"] == "succeeded" for row in list_members(client, other.id))


def test_adaptive_and_synflow(two_workers: Running) -> None:
    client = two_workers.client
    job = client.jobs.submit(
        SMALL_FAMILY
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
    report = read_family_report(client, job.id)
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
    two_workers: Running, tmp_path: Path
) -> None:
    client = two_workers.client
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
            "members": {"depths": [1, 3], "widths": [8, 32], "fractions": [0.25, 1.0]},
            "keep": 0.5,
            "floor_density": 0.015,
            "max_error": [0.1],
        }
    )
    until(lambda: count_ended(client, job.id) >= 3, "a third of the members have ended", 600)
    os.kill(two_workers.workers()[-1], signal.SIGKILL)
    assert client.jobs.wait(job.id, timeout_s=1300, interval_s=1).status == "succeeded"
    report = read_family_report(client, job.id)
    check_family(client, job.id, report, 8)
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
