"""Jobs in real job processes: success, requests of clients, workers that stop or lose a job."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from tasks import owners, workspace
from tasks.artifacts import LocalArtifacts, open_artifacts
from tasks.reaper import reap_forever
from tasks.store import Store, assets, claims
from tasks.store.tables import Dataset, Job
from tests.support.job_world import (
    Chaos,
    World,
    claim,
    claimed,
    create,
    history,
    make_world,
    messages,
    processes,
    results,
    stages,
    statuses,
)
from tests.support.servers import Bucket, Postgresql, until

Bytes = dict[tuple[str, str], str]


def test_a_job_succeeds_with_everything_a_user_downloads(world: World) -> None:
    id = world.submit(builtin=True, evaluations=None)
    assert world.runner().run(id)
    world.assert_succeeded_once(id)
    job = world.job(id)
    assert (job.attempt, job.fence) == (1, 1)
    assert job.progress_done == job.progress_total > 0
    assert job.summary is not None
    assert set(job.summary) == {"recommendation", "gates", "curve", "timing"}
    timing = job.summary["timing"]
    assert job.started_at is not None
    assert job.finished_at is not None
    assert 0 < timing["seconds"] < job.finished_at - job.started_at
    assert timing["flops"] == job.progress_total * timing["image_flops"] > 0
    stages = [event.data["stage"] for event in history(world.store, id) if event.type == "stage"]
    assert stages[0] == "baseline"
    assert {"baseline", "prune", "retrain", "evaluate", "export"} == set(stages)
    assert "accuracy" in world.report(id)["sections"]
    assert not world.runner().run(id)


@pytest.mark.slow
def test_a_job_runs_on_postgresql_and_s3(
    tmp_path: Path, postgresql: Postgresql, s3: Bucket, chaos: Chaos, undisturbed: Bytes
) -> None:
    store = Store(postgresql.new_database())
    store.create_tables()
    try:
        world = make_world(store, open_artifacts(s3.url, s3_endpoint=s3.endpoint), tmp_path)
        id = world.submit()
        chaos.plan(at_9="kill")
        world.runner().run(id)
        assert world.job(id).status == "queued"
        assert world.settle_all(id).attempt == 1
        world.assert_succeeded_once(id)
        assert world.checkpoints(id) == undisturbed
    finally:
        store.close()


def test_cancelling_keeps_what_is_finished(world: World, chaos: Chaos, undisturbed: Bytes) -> None:
    id = world.submit()
    chaos.write({"round-0-002.partial": "gate"})
    with world.running(id):
        chaos.await_reached()
        world.request(id, "cancel")
    job = world.job(id)
    assert (job.status, job.error) == ("cancelled", None)
    assert statuses(world.store, id) == ["queued", "running", "cancelling", "cancelled"]
    digests = world.checkpoints(id)
    assert digests == {
        key: sha256 for key, sha256 in undisturbed.items() if key[0] == "magnitude-0.5"
    }
    report = world.report(id)
    assert report["partial"]
    assert [(checkpoint["id"], checkpoint["partial"]) for checkpoint in report["checkpoints"]] == [
        ("magnitude-0.5", True)
    ]
    assert job.summary is not None
    assert messages(world.store, id) == []
    world.assert_tidy(id)
    world.request(id, "retry")
    (chaos.folder / "go").touch()
    assert world.settle_all(id).status == "succeeded"
    assert world.checkpoints(id) == undisturbed
    world.assert_succeeded_once(id)
    summary = world.job(id).summary
    assert summary is not None
    assert "timing" not in summary, "an earlier attempt did a part of the work"


def test_pause_and_resume(world: World, chaos: Chaos, undisturbed: Bytes) -> None:
    id = world.submit()
    chaos.plan(at_6="gate")
    with world.running(id):
        chaos.await_reached()
        world.request(id, "pause")
    assert world.job(id).status == "paused"
    assert messages(world.store, id) == []
    assert not world.runner().run(id)
    world.assert_tidy(id)
    world.request(id, "resume")
    assert world.runner().run(id)
    world.assert_succeeded_once(id)
    assert statuses(world.store, id) == [
        "queued",
        "running",
        "pausing",
        "paused",
        "queued",
        "running",
        "succeeded",
    ]
    assert world.checkpoints(id) == undisturbed
    assert world.job(id).attempt == 1


def test_a_worker_that_stops_hands_the_job_back(
    world: World, chaos: Chaos, undisturbed: Bytes
) -> None:
    id = world.submit()
    chaos.plan(at_4="gate")
    with world.running(id) as runner:
        chaos.await_reached()
        runner.stopping.set()
    job = world.job(id)
    assert (job.status, job.attempt, job.owner) == ("queued", 1, None)
    assert len(messages(world.store, id)) == 1
    world.assert_tidy(id)
    assert not runner.run(id)
    assert world.runner().run(id)
    world.assert_succeeded_once(id)
    assert world.job(id).attempt == 1
    assert world.checkpoints(id) == undisturbed


def test_a_stolen_job_is_let_go(world: World, chaos: Chaos) -> None:
    id = world.submit()
    chaos.plan(at_4="gate")
    with world.running(id):
        chaos.await_reached()
        assert processes(id) != []
        with world.store.write() as session:
            assert (
                claims.claim(session, id, "thief", 60.0, max_attempts=5, is_gone=lambda owner: True)
                is None
            )
            job = session.get(Job, id)
            assert job is not None
            job.available_at = 0.0
            session.flush()
            claim = claims.claim(session, id, "thief", 60.0, max_attempts=5)
            assert claim is not None
        before = len(history(world.store, id))
    job = world.job(id)
    assert (job.status, job.owner, job.fence) == ("running", "thief", 2)
    assert len(history(world.store, id)) == before
    assert {row.fence for row in stages(world.store, id).values()} == {1}
    assert results(world.store, id) == {}
    world.assert_tidy(id)


def test_a_stuck_process_counts_as_crashed(world: World, chaos: Chaos, undisturbed: Bytes) -> None:
    id = world.submit()
    chaos.plan(at_3="stop")
    runner = world.runner()
    with world.running(id, runner):
        chaos.await_reached()
        runner.settings.stuck_s = 0.2
    job = world.job(id)
    assert (job.status, job.attempt) == ("queued", 2)
    assert "silent" in next(
        event.data["reason"] for event in history(world.store, id) if event.type == "attempt"
    )
    world.assert_tidy(id)
    world.settle_all(id)
    world.assert_succeeded_once(id)
    assert world.checkpoints(id) == undisturbed


def test_a_file_that_is_replaced_while_it_is_linked_is_linked_again(tmp_path: Path) -> None:
    """A report is replaced with every checkpoint.

    link(2) answers ENOENT for a file that has just lost its name.
    """
    path, done = tmp_path / "report", threading.Event()
    path.write_text("first")

    def replace() -> None:
        while not done.is_set():
            aside = tmp_path / "aside"
            aside.write_text("again")
            aside.replace(path)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        for number in range(3000):
            workspace.link_file(path, tmp_path / str(number))
    finally:
        done.set()
        writer.join()
    with pytest.raises(FileNotFoundError):
        workspace.link_file(tmp_path / "missing", tmp_path / "target")


def test_damaged_and_missing_stages_are_computed_again(
    world: World, chaos: Chaos, undisturbed: Bytes
) -> None:
    id = world.submit()
    chaos.plan(at_9="kill")
    world.runner().run(id)
    saved = stages(world.store, id)
    assert len(saved) >= 2
    names = sorted(saved)
    truncated, lost = saved[names[0]], saved[names[-1]]
    assert isinstance(world.artifacts, LocalArtifacts)
    path = world.artifacts.path(truncated.artifact)
    os.truncate(path, path.stat().st_size // 2)
    world.artifacts.delete(lost.artifact)
    world.settle_all(id)
    world.assert_succeeded_once(id)
    assert world.checkpoints(id) == undisturbed


def test_a_deleted_dataset_frees_nobody_elses(world: World) -> None:
    deleted, missing = world.dataset(), world.dataset()
    with world.store.write() as session:
        world.artifacts.delete(
            assets.remove(session, assets.get(session, Dataset, "default", deleted))
        )
    assert world.keys("datasets") == {f"datasets/{missing}/data.safetensors"}


def test_what_a_dead_worker_left_in_the_work_folder_goes(world: World) -> None:
    id = world.submit()
    dataset = world.job(id).dataset_id
    world.artifacts.delete(f"datasets/{dataset}")  # ends early
    assert world.settings.work_dir is not None
    abandoned = world.settings.work_dir / f"secateur-{world.store.identity}-{id}-0-abcdefgh"
    other = world.settings.work_dir / f"secateur-{world.store.identity}-job_other-1-abcdefgh"
    for folder in (abandoned, other):
        (folder / "stages").mkdir(parents=True)
        (folder / "job.json").write_text(json.dumps({}))
    world.runner().run(id)
    assert list(world.settings.work_dir.iterdir()) == [other]


def test_every_signal_has_a_name() -> None:
    for number in range(1, 65):
        assert owners.describe_exit(-number)
    assert "SIGKILL" in owners.describe_exit(-signal.SIGKILL)
    assert "3" in owners.describe_exit(3)


def test_a_running_job_is_run_once_and_knows_no_secrets(
    world: World, chaos: Chaos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECATEUR_API_KEY", "sesame")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sesame")
    id = world.submit()
    chaos.plan(at_1="gate")
    with world.running(id):
        chaos.await_reached()
        assert not world.runner().run(id)
        assert claim(world.store, id, "other") is None
        [pid] = processes(id)
        assert b"sesame" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert os.getpgid(pid) == pid
        assert world.settings.work_dir is not None
        [folder] = world.settings.work_dir.iterdir()
        assert folder.stat().st_mode & 0o077 == 0
        world.request(id, "cancel")
    assert statuses(world.store, id) == ["queued", "running", "cancelling", "cancelled"]
    world.assert_tidy(id)


def test_a_settled_job_is_left_alone_by_a_late_claim(world: World) -> None:
    id = create(world.store).id
    claim = claimed(world.store, id)
    with world.store.write() as session:
        claims.settle(session, claim, "cancelled")
    assert not world.runner().run(id)
    assert world.job(id).status == "cancelled"


def test_the_reaper_sweeps_and_outlives_an_absent_database(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = create(world.store).id
    claimed(world.store, id, "other-host/boot/1/1", lease_s=-1.0)
    tried, real = threading.Event(), claims.sweep

    def away(*args: Any, **options: Any) -> int:
        tried.set()
        raise OperationalError("SELECT", {}, Exception("the database is away"))

    monkeypatch.setattr(claims, "sweep", away)
    runner = world.runner(reaper_s=0.05)
    thread = threading.Thread(target=reap_forever, args=(runner,))
    thread.start()
    try:
        assert tried.wait(30)
        monkeypatch.setattr(claims, "sweep", real)
        until(lambda: world.job(id).status == "queued", "the reaper to free the job")
    finally:
        runner.stopping.set()
        thread.join(30)
    assert not thread.is_alive()
    assert world.job(id).attempt == 2
