"""Killed processes at the worst moment: the job still ends once, with the same bytes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from secateur import AuthError, Client
from tests.support.running import OFTEN, Running, alive, until

pytestmark = pytest.mark.slow

SPEC = {
    "type": "prune",
    "model": {
        "architecture": "cifar_resnet",
        "kwargs": {"depth": 8, "width": 0.5},
        "train": {"epochs": 2},
    },
    "dataset": {"builtin": "digits", "limit": {"train": 240, "test": 100}},
    "targets": {"sparsity": [0.5, 0.9]},
    "retrain": {"mode": "fine_tune", "epochs": 3, "batch_size": 16},
    "evaluations": [{"name": "accuracy"}],
    "seed": 7,
}


PATIENT = OFTEN | {"SECATEUR_LEASE_S": "3600", "SECATEUR_REAPER_S": "3600"}
"""Nobody waits for a lease to run out: an owner on this host that is gone is replaced at once."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Return a service that is harmed again and again, and must recover each time."""
    running = Running(tmp_path_factory.mktemp("harmed"), 1, **PATIENT).start()
    yield running
    running.stop()
    running.close()


@pytest.fixture(scope="module")
def undisturbed(running: Running) -> dict[str, dict[str, str]]:
    """Return the checkpoints of an undisturbed run."""
    job = running.client.jobs.submit(SPEC)
    running.client.jobs.wait(job.id, timeout_s=150, interval_s=0.2)
    return running.digests(job.id)


def in_round(running: Running, job_id: str, number: int) -> bool:
    """Return whether the job is in the middle of the round's retraining: some steps are saved."""
    saved = [
        path.name
        for path in (running.folder / "data" / "work").glob("*/stages/*")
        if not path.name.startswith(".")
    ]
    return any(f"round-0-{number:03d}.partial" in name for name in saved)


def finished(running: Running, job_id: str, undisturbed: dict[str, dict[str, str]]) -> None:
    """Check that the job succeeds once, with the bytes of the undisturbed run."""
    job = running.client.jobs.wait(job_id, timeout_s=150, interval_s=0.2)
    assert job.status == "succeeded"
    assert running.digests(job_id) == undisturbed
    statuses = [data["status"] for data in running.events(job_id, "status")]
    assert statuses.count("succeeded") == 1
    assert statuses[-1] == "succeeded"
    assert running.client.jobs.results(job_id).report is not None
    until(lambda: not running.job_processes(), "no job process is left")


def test_worker_killed(running: Running, undisturbed: dict[str, dict[str, str]]) -> None:
    job = running.client.jobs.submit(SPEC)
    until(lambda: in_round(running, job.id, 1), "the first round retrains")
    before = running.job_processes()
    worker = running.worker()
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    until(lambda: not set(before) & set(running.job_processes()), "its job process dies with it")
    finished(running, job.id, undisturbed)


def test_whole_tree_killed(running: Running, undisturbed: dict[str, dict[str, str]]) -> None:
    job = running.client.jobs.submit(SPEC)
    until(lambda: in_round(running, job.id, 2), "the second round retrains")
    running.kill_tree()
    running.start()
    finished(running, job.id, undisturbed)


def test_a_key_closes_the_service_and_its_end_takes_the_children_along(
    fresh: Callable[..., Running],
) -> None:
    running = fresh(SECATEUR_API_KEY="k" * 40).start()
    assert list(running.client.jobs.list()) == []
    with Client(running.url, "") as stranger, pytest.raises(AuthError):
        list(stranger.jobs.list())
    tree = running.tree()
    assert running.process is not None
    running.process.kill()
    running.process.wait(30)
    until(lambda: not set(tree) & set(alive()), "no child is left")


def test_four_kills_in_one_job(running: Running, undisturbed: dict[str, dict[str, str]]) -> None:
    job = running.client.jobs.submit(SPEC)
    for number in (1, 1, 2, 2):
        until(partial(in_round, running, job.id, number), f"round {number} retrains")
        victims = running.job_processes()
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        until(lambda: running.job_processes() not in ([], victims), "the job runs again")  # noqa: B023
    finished(running, job.id, undisturbed)
    attempts = running.events(job.id, "attempt")
    assert len(attempts) >= 4
    assert all("SIGKILL" in data["reason"] for data in attempts)


def test_ctrl_c_hands_back_and_the_next_start_goes_on(
    running: Running, undisturbed: dict[str, dict[str, str]]
) -> None:
    job = running.client.jobs.submit(SPEC)
    until(lambda: in_round(running, job.id, 1), "the first round retrains")
    tree = running.tree()
    assert running.stop(signal.SIGINT) == 0
    assert not set(tree) & set(alive())
    assert not list((running.folder / "data" / "work").iterdir())
    running.start()
    finished(running, job.id, undisturbed)
    assert running.events(job.id, "attempt") == []


def test_broker_killed_and_flushed(
    fresh: Callable[..., Running], undisturbed: dict[str, dict[str, str]]
) -> None:
    running = fresh().start()
    for pid in running.tree():
        if "valkey" in Path(f"/proc/{pid}/cmdline").read_text():
            os.kill(pid, signal.SIGKILL)
    job = running.client.jobs.submit(SPEC)
    finished(running, job.id, undisturbed)
