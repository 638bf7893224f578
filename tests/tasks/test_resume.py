"""`kill -9` of the job process and of the worker at chosen points.

The resulting bytes are those of an undisturbed run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks import owners, workspace
from tasks.store import claims, jobs
from tests.support.job_world import Chaos, World, due_now, history, processes, statuses
from tests.support.servers import until

Bytes = dict[tuple[str, str], str]

WORKER = """
import sys
from tasks.artifacts import open_artifacts
from tasks.run_job import Runner
from tasks.settings import Settings
from tasks.store import Store

settings = Settings()
store = Store(settings.database_url)
Runner(store, open_artifacts(settings.artifact_url), settings).run(sys.argv[1])
"""


@pytest.mark.slow
def test_five_kills_of_the_job_process(world: World, chaos: Chaos, undisturbed: Bytes) -> None:
    id = world.submit()
    plan = {
        "at_1": "kill",
        "before_5": "kill",
        "at_11": "kill",
        "before_16": "kill",
        "at_24": "kill",
    }
    chaos.plan(**plan)
    world.settle_all(id, runner=world.runner(max_attempts=2))
    world.assert_succeeded_once(id)
    kills = [event.data["reason"] for event in history(world.store, id) if event.type == "attempt"]
    assert len(kills) == len(plan), (kills, chaos.saves)
    assert all("SIGKILL" in reason for reason in kills)
    assert world.job(id).fence == len(plan) + 1
    assert world.checkpoints(id) == undisturbed


@pytest.mark.slow
def test_kill_of_the_worker(world: World, chaos: Chaos, undisturbed: Bytes, tmp_path: Path) -> None:
    id = world.submit()
    chaos.plan(at_13="gate")
    settings = {
        "SECATEUR_DATABASE_URL": world.store.url,
        "SECATEUR_ARTIFACT_URL": f"file:{tmp_path}/artifacts",
        "SECATEUR_WORK_DIR": str(world.settings.work_dir),
        "SECATEUR_CHECKPOINT_STEPS": "2",
        "SECATEUR_THREADS": "1",
    }
    worker = subprocess.Popen([sys.executable, "-c", WORKER, id], env={**os.environ, **settings})
    try:
        chaos.await_reached()
        [job_process] = processes(id)
        assert not world.runner().run(id)  # the owner lives and its lease is fresh
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        until(
            lambda: not Path(f"/proc/{job_process}").exists() or processes(id) == [],
            "the job process to end itself",
        )
    finally:
        worker.kill()
        worker.wait()
    assert world.job(id).status == "running"
    assert not world.runner().run(id)  # frees it at once: the owner is known to be gone
    assert (world.job(id).status, world.job(id).attempt) == ("queued", 2)
    due_now(world.store, id)
    assert world.runner().run(id)
    world.assert_succeeded_once(id)
    assert statuses(world.store, id) == ["queued", "running", "queued", "running", "succeeded"]
    assert world.checkpoints(id) == undisturbed


def test_folders_of_killed_workers_are_swept_and_those_in_use_are_not(
    world: World, tmp_path: Path
) -> None:
    with world.store.write() as session:
        spec: dict[str, object] = {}
        made = [
            jobs.create(
                session,
                jobs.NewJob(
                    project="default",
                    spec=spec,
                    model_id=None,
                    rewind_model_id=None,
                    dataset_id=None,
                    priority=4,
                    deadline_s=None,
                    labels={},
                ),
            )[0]
            for _ in range(2)
        ]
    held, dead = made
    with world.store.write() as session:
        claim = claims.claim(session, held.id, owners.identify_process(), 3600, max_attempts=5)
    with world.store.write() as session:
        claims.claim(session, dead.id, "elsewhere/1/1", 3600, max_attempts=5)
    assert claim is not None
    settings = world.settings.model_copy(update={"work_dir": tmp_path / "swept"})
    folder = workspace.make(world.store, settings, claim)
    ours = f"secateur-{world.store.identity}"
    for name in (
        f"{ours}-{held.id}-0-abc",
        f"{ours}-{dead.id}-7-abc",
        f"{ours}-job_00000000-1-abc",
    ):
        (tmp_path / "swept" / name).mkdir()
    expected = {folder}
    for name in (
        "secateur-01234567-job_00000000-1-abc",
        f"{ours}-odd",
        "secateur-job_bad",
        "thesis",
    ):
        expected.add(tmp_path / "swept" / name)
        (tmp_path / "swept" / name).mkdir()
    workspace.sweep(world.store, settings)
    assert set((tmp_path / "swept").iterdir()) == expected
