"""Turns of a job with replicates in real job processes."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.store.jobs import PARKED
from tests.support.job_world import World
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
    for member in members.values():
        spec = world.job(member).spec
        assert spec["dataset"]["limit"] == {"train": 300, "test": 100, "seed": 5}
        assert world.job(member).dataset_id == world.job(id).dataset_id
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
