"""Replicates of a job in real job processes: run, killed, failed, retried, pooled."""

from __future__ import annotations

from typing import Any

import pytest

from pruning.schemas.report import Report
from tasks.store.jobs import PARKED
from tests.support.job_world import World, read_job, statuses
from tests.support.small_families import act_after, kill_processes, read_members
from tests.support.small_families import take_turn as run_at_once

SPEC: dict[str, Any] = {
    "model": {
        "architecture": "mlp",
        "kwargs": {"hidden": [32]},
        "train": {"epochs": 3, "batch_size": 32},
    },
    "dataset": {"builtin": "digits", "limit": {"train": 300, "test": 100}},
    "targets": {"sparsity": [0.5]},
    "evaluations": [],
    "gates": {"max_error_increase": 0.9},
    "seed": 5,
    "replicates": 2,
}


def submit(world: World, **changes: Any) -> str:
    """Submit the small job with replicates."""
    return world.submit(SPEC, **changes)


def read_report(world: World, id: str) -> Report:
    """Return the report of a job."""
    return Report.model_validate(world.report(id))


@pytest.mark.slow
def test_two_replicates_are_run_and_pooled(world: World) -> None:
    id = submit(world, deadline_s=3600, labels={"study": "x"})
    run_at_once(world, id)
    assert (world.job(id).status, world.job(id).owner) == ("running", PARKED)
    members = read_members(world, id)
    assert set(members) == {"seed5", "seed6"}
    specs = [read_job(world.store, job).spec for job in members.values()]
    assert [spec["seed"] for spec in specs] == [5, 6]
    for spec in specs:
        assert spec["dataset"]["limit"] == {"train": 300, "test": 100, "seed": 5}
        assert not {"replicates", "deadline_s"} & set(spec)
    for job in members.values():
        run_at_once(world, job)
        assert world.job(job).status == "succeeded", world.job(job).error
    run_at_once(world, id)
    assert world.job(id).status == "succeeded", world.job(id).error
    report = read_report(world, id)
    assert not report.partial
    assert [(row.seed, row.job) for row in report.replicates] == [
        (5, members["seed5"]),
        (6, members["seed6"]),
    ]
    (checkpoint,) = report.checkpoints
    rows = report.sections["replicates"].details["runs"]
    assert checkpoint.error.value == pytest.approx(sum(row["error"] for row in rows) / 2)
    assert checkpoint.error.n == 100
    assert checkpoint.error_increase.control_variance is not None
    assert checkpoint.error_increase.control_variance.replicates == 2
    assert [gate.outcome for gate in report.gates] != []
    summary = world.job(id).summary
    assert summary is not None
    assert summary["recommendation"]["checkpoint"] == report.recommendation.checkpoint
    assert statuses(world.store, id)[-1] == "succeeded"
    world.assert_tidy(id)


@pytest.mark.slow
def test_a_turn_that_dies_is_taken_again_and_starts_no_replicate_twice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = submit(world)
    killed = act_after(monkeypatch, "members", kill_processes)
    run_at_once(world, id)
    assert killed == [1]
    assert (world.job(id).status, world.job(id).attempt) == ("queued", 2)
    members = read_members(world, id)
    assert set(members) == {"seed5", "seed6"}
    run_at_once(world, id)
    assert (world.job(id).status, world.job(id).owner) == ("running", PARKED)
    assert read_members(world, id) == members
    world.request(members["seed5"], "cancel")
    world.request(members["seed6"], "cancel")
    run_at_once(world, id)
    job = world.job(id)
    assert job.status == "failed"
    assert job.error is not None
    assert (job.error["code"], job.error["retryable"]) == ("too_few_replicates", True)
    assert "it was cancelled" in job.error["message"]
