"""Jobs in real job processes that fail: broken methods, inputs and stores, deadlines."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from tasks import supervise
from tests.support.job_world import (
    SPEC,
    Chaos,
    Flaky,
    World,
    change,
    create,
    due_now,
    gapless,
    messages,
    stages,
    statuses,
)

Bytes = dict[tuple[str, str], str]
POISON: dict[str, Any] = {
    "model": {
        "architecture": "mlp",
        "kwargs": {"hidden": [8]},
        "train": {"epochs": 2, "batch_size": 32},
    },
    "retrain": {"mode": "none"},
}


def failed(world: World, id: str, code: str) -> dict[str, Any]:
    """Return the error of a job that failed cleanly, once."""
    job = world.job(id)
    assert job.status == "failed", job.status
    assert job.error is not None
    assert job.error["code"] == code, job.error
    assert set(job.error) == {"code", "message", "stage", "retryable", "attempt"}
    assert job.finished_at is not None
    assert job.owner is None
    assert messages(world.store, id) == []
    assert statuses(world.store, id).count("failed") == 1
    assert gapless(world.store, id)
    world.assert_tidy(id)
    return job.error


@pytest.mark.parametrize(
    ("how", "attempts", "reason"), [("exit", 2, "exit status 7"), ("abort", 1, "SIGABRT")]
)
def test_poison_fails_after_some_attempts(
    world: World, chaos: Chaos, how: str, attempts: int, reason: str
) -> None:
    id = world.submit(POISON, criterion={"name": "poison", "params": {"how": how}})
    world.settle_all(id, runner=world.runner(max_attempts=attempts))
    error = failed(world, id, "worker_lost")
    assert reason in error["message"]
    assert error["retryable"]
    assert error["stage"] == "prune"
    assert statuses(world.store, id).count("running") == attempts


def test_poison_in_the_first_training_fails_too(world: World, chaos: Chaos) -> None:
    id = world.submit(POISON, model={"architecture": "poison_net", "train": {"epochs": 1}})
    world.settle_all(id, runner=world.runner(max_attempts=2), tries=4)
    failed(world, id, "worker_lost")
    assert (
        statuses(world.store, id).count("running") == 2
    )  # each saves the weights to rewind to, the same bytes


def test_a_plugin_that_raises_fails_once(world: World, chaos: Chaos) -> None:
    id = world.submit(POISON, criterion={"name": "poison", "params": {"how": "raise"}})
    world.runner().run(id)
    error = failed(world, id, "internal")
    assert "ValueError: the plugin is broken" in error["message"]
    assert not error["retryable"]
    assert statuses(world.store, id) == ["queued", "running", "failed"]
    assert not world.runner().run(id)


def test_a_broken_message_counts_as_a_crash(world: World, chaos: Chaos) -> None:
    id = world.submit(POISON, criterion={"name": "poison", "params": {"how": "garbage"}})
    world.settle_all(id, runner=world.runner(max_attempts=1))
    failed(world, id, "worker_lost")


def test_a_network_no_better_than_chance_is_no_baseline(world: World) -> None:
    noise = world.noise()
    id = create(world.store, spec={**SPEC, **POISON, "dataset": {"id": noise}}, dataset_id=noise).id
    world.runner().run(id)
    error = failed(world, id, "baseline_mismatch")
    assert "chance" in error["message"]
    assert error["stage"] == "baseline"
    assert not error["retryable"]


def test_a_deadline_ends_a_running_job(world: World, chaos: Chaos) -> None:
    id = world.submit(deadline_s=1000.0)
    chaos.plan(at_2="gate")
    change(world.store, id, deadline_at=1.0)
    world.runner().run(id)
    error = failed(world, id, "deadline_exceeded")
    assert not error["retryable"]


def test_a_full_artifact_store_fails_the_job_and_a_retry_goes_on(
    world: World, chaos: Chaos, undisturbed: Bytes
) -> None:
    id = world.submit()
    store = Flaky(
        world.artifacts,
        lambda key: (
            OSError(errno.ENOSPC, "No space left on device") if "dense.safetensors" in key else None
        ),
    )
    world.runner(store).run(id)
    error = failed(world, id, "storage_failed")
    assert "No space left" in error["message"]
    assert error["retryable"]
    assert stages(world.store, id) != {}
    world.request(id, "retry")
    assert world.job(id).error is None
    assert world.runner().run(id)
    world.assert_succeeded_once(id)
    assert world.checkpoints(id) == undisturbed


def test_inputs_that_cannot_be_read_fail_the_job(world: World) -> None:
    id = world.submit()
    dataset = world.job(id).dataset_id
    world.artifacts.delete(f"datasets/{dataset}")
    world.runner().run(id)
    error = failed(world, id, "storage_failed")
    assert "could not be read" in error["message"]
    assert error["retryable"]


@pytest.mark.parametrize("column", ["model_id", "dataset_id", "rewind_model_id"])
def test_inputs_deleted_before_a_retry_fail_the_job(world: World, column: str) -> None:
    spec = {"type": "prune", "model": {"id": "mdl_00000000"}, "dataset": {"id": "dst_00000000"}}
    id = create(world.store, spec=spec, **{column: "xyz_00000000"}).id
    assert world.runner().run(id)
    error = failed(world, id, "input_deleted")
    assert "xyz_00000000" in error["message"]
    assert not error["retryable"]


def test_a_missing_work_folder_is_made(world: World, tmp_path: Path) -> None:
    id = world.submit()
    dataset = world.job(id).dataset_id
    world.artifacts.delete(f"datasets/{dataset}")  # ends early
    world.runner(work_dir=tmp_path / "not" / "yet").run(id)
    failed(world, id, "storage_failed")
    assert list((tmp_path / "not" / "yet").iterdir()) == []


def test_a_process_that_cannot_start_counts_as_a_crash(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = world.submit()

    def refuse(*args: Any, **options: Any) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(supervise, "launch", refuse)
    runner = world.runner(max_attempts=2)
    runner.run(id)
    assert (world.job(id).status, world.job(id).attempt) == ("queued", 2)
    due_now(world.store, id)
    runner.run(id)
    assert "Resource temporarily unavailable" in failed(world, id, "worker_lost")["message"]
