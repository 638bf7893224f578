"""The surroundings of a worker, short ways to create jobs, and a plugin that fails as planned."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select, update

from pruning.data.arrays import Arrays
from pruning.data.builtin import Digits
from pruning.schemas.job import TERMINAL
from tasks.artifacts import Artifacts, LocalArtifacts, S3Artifacts
from tasks.run_job import Runner
from tasks.settings import Settings
from tasks.store import Store, claims, jobs
from tasks.store.tables import Event, Job, Outbox, ResultFile, StageFile
from tests.support.running import alive, read_log_path
from tests.support.servers import until
from tests.support.stored_datasets import make_noise, store_dataset

SPEC: dict[str, Any] = {
    "type": "prune",
    "model": {
        "architecture": "mlp",
        "kwargs": {"hidden": [32]},
        "train": {"epochs": 3, "batch_size": 32},
    },
    "dataset": {"builtin": "digits", "limit": {"train": 300, "test": 100}},
    "targets": {"sparsity": [0.5, 0.9]},
    "retrain": {"epochs": 1, "batch_size": 32},
    "evaluations": [],
}
FORMATS = {"sparse", "dense", "masks"}
REPORTS = {"json", "html", "md", "junit"}
PLUGIN = Path(__file__).with_name("chaos_plugin.py")


@dataclass
class Chaos:
    """The plugin's folder; `plan` says what happens at which save.

    The saves are counted over all attempts of the test.
    """

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir()
        shutil.copy(PLUGIN, self.folder / "chaos.py")
        self.plan()

    def plan(self, **actions: str) -> None:
        """Plan failures: `at_3="kill"` acts after the third save, `before_3="kill"` before it."""
        self.write({key.replace("at_", "").replace("_", " "): how for key, how in actions.items()})

    def write(self, plan: dict[str, str]) -> None:
        """Plan failures by the number of a save or by the name of the stage that is saved."""
        (self.folder / "plan.json").write_text(json.dumps(plan))

    def await_reached(self) -> None:
        until((self.folder / "reached").exists, "the job process to reach the chosen point", 120)

    @property
    def saves(self) -> list[str]:
        path = self.folder / "saves"
        return path.read_text().splitlines() if path.exists() else []


@dataclass
class Flaky:
    """An artifact store that fails on demand."""

    inner: Artifacts
    refuse: Callable[[str], OSError | None] = lambda key: None

    def put(self, key: str, source: Path) -> None:
        if (error := self.refuse(key)) is not None:
            raise error
        self.inner.put(key, source)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@dataclass
class World:
    """The database, artifacts and settings of a worker."""

    store: Store
    artifacts: Artifacts
    settings: Settings
    threads: list[threading.Thread] = field(default_factory=list)

    def runner(self, artifacts: Artifacts | None = None, **changes: Any) -> Runner:
        return Runner(
            self.store, artifacts or self.artifacts, self.settings.model_copy(update=changes)
        )

    def submit(
        self, spec: dict[str, Any] | None = None, *, builtin: bool = False, **changes: Any
    ) -> str:
        """Create the standard job with these fields changed.

        It uses the digits as an uploaded dataset, which saves an import.
        """
        spec = {**SPEC, **(spec or {}), **changes}
        dataset_id = None
        if not builtin:
            dataset_id = self.dataset()
            spec["dataset"] = {"id": dataset_id, "limit": spec["dataset"]["limit"]}
        return create(
            self.store,
            spec=spec,
            dataset_id=dataset_id,
            model_id=spec["model"].get("id"),
            deadline_s=spec.get("deadline_s"),
        ).id

    def submit_on(self, dataset_id: str, spec: dict[str, Any], **dataset: Any) -> str:
        """Create the standard job with these fields changed, on a stored dataset."""
        spec = {**SPEC, **spec, "dataset": {"id": dataset_id, **dataset}}
        return create(self.store, spec=spec, dataset_id=dataset_id).id

    def dataset(self) -> str:
        """Store the digits as a dataset, and return its id."""
        return self.store_dataset(Digits().load())

    def noise(self) -> str:
        """Store a dataset whose labels have nothing to do with its images."""
        return self.store_dataset(make_noise())

    def store_dataset(self, arrays: Arrays) -> str:
        folder = Path(str(self.settings.work_dir)).parent
        return store_dataset(self.store, self.artifacts, folder, arrays)

    def job(self, id: str) -> Job:
        return read_job(self.store, id)

    def request(self, id: str, verb: str) -> None:
        with self.store.write() as session:
            jobs.request(session, "default", id, verb)

    def settle_all(self, id: str, *, tries: int = 12, runner: Runner | None = None) -> Job:
        """Run the job again and again, without its delays, until it has ended."""
        for _ in range(tries):
            if self.job(id).status in TERMINAL:
                break
            due_now(self.store, id)
            (runner or self.runner()).run(id)
        return self.job(id)

    @contextmanager
    def running(self, id: str, runner: Runner | None = None) -> Iterator[Runner]:
        """Run the job in a thread; its run must end soon after the block."""
        used = runner or self.runner()
        thread = threading.Thread(target=used.run, args=(id,))
        thread.start()
        try:
            yield used
        except BaseException:
            used.stopping.set()
            raise
        finally:
            thread.join(120)
        assert not thread.is_alive(), "the supervisor goes on"

    def checkpoints(self, id: str) -> dict[tuple[str, str], str]:
        """Return the SHA-256 of every stored checkpoint file; the database must have the same."""
        with self.store.read() as session:
            rows = jobs.list_result_files(session, id)
        for row in rows:
            content = b"".join(self.artifacts.stream(row.artifact))
            assert (hashlib.sha256(content).hexdigest(), len(content)) == (
                row.sha256,
                row.size_bytes,
            )
        return {
            (row.checkpoint, row.format): row.sha256 for row in rows if row.checkpoint != "report"
        }

    def report(self, id: str) -> dict[str, Any]:
        """Return the JSON report, after a check that the other formats exist."""
        with self.store.read() as session:
            rows = {
                row.format: row
                for row in jobs.list_result_files(session, id)
                if row.checkpoint == "report"
            }
        report = dict(json.loads(b"".join(self.artifacts.stream(rows["json"].artifact))))
        # Whole reports of single jobs go with the errors on each image, by which jobs are compared.
        has_images = not (report.get("type") == "family" or report["partial"])
        assert set(rows) == REPORTS | ({"images"} if has_images else set())
        return report

    def assert_succeeded_once(self, id: str) -> None:
        """Check that the job succeeded once, with every file and with nothing left over."""
        job = self.job(id)
        assert job.status == "succeeded", job.error
        assert job.error is None
        assert job.owner is None
        assert statuses(self.store, id).count("succeeded") == 1
        assert statuses(self.store, id)[-1] == "succeeded"
        assert gapless(self.store, id)
        assert {format for _, format in self.checkpoints(id)} == FORMATS
        assert len(self.checkpoints(id)) == 2 * len(FORMATS)
        report = self.report(id)
        assert len(report["checkpoints"]) == 2
        assert not report["partial"]
        with self.store.read() as session:
            results = {row.artifact for row in jobs.list_result_files(session, id)}
            assert jobs.list_stage_files(session, id) == []
        assert self.keys(f"jobs/{id}") == results
        self.assert_tidy(id)

    def assert_tidy(self, id: str) -> None:
        """Check that the job has no process and no working folder."""
        assert processes(id) == []
        assert self.settings.work_dir is not None
        assert list(self.settings.work_dir.iterdir()) == []

    def keys(self, prefix: str) -> set[str]:
        """Return every artifact below the prefix."""
        if isinstance(self.artifacts, LocalArtifacts):
            root = self.artifacts.root
            return {
                str(path.relative_to(root)) for path in (root / prefix).rglob("*") if path.is_file()
            }
        import obstore

        assert isinstance(self.artifacts, S3Artifacts)
        return {
            item["path"]
            for batch in obstore.list(self.artifacts._store, prefix=prefix)
            for item in batch
        }


def make_world(store: Store, artifacts: Artifacts, folder: Path) -> World:
    """Return a worker's surroundings in a folder."""
    (folder / "work").mkdir()
    return World(
        store,
        artifacts,
        Settings(
            work_dir=folder / "work",
            cache_dir=folder / "cache",
            checkpoint_steps=2,
            threads=1,
            heartbeat_s=0.1,
            lease_s=60.0,
            stuck_s=300.0,
        ),
    )


def create(
    store: Store,
    project: str = "default",
    *,
    key: str | None = None,
    request: str = "",
    **fields: Any,
) -> Job:
    """Create a job in the store."""
    values = {
        "spec": {},
        "model_id": None,
        "rewind_model_id": None,
        "dataset_id": None,
        "priority": 4,
        "deadline_s": None,
        "labels": {},
        **fields,
    }
    with store.write() as session:
        new = jobs.NewJob(project=project, **values)
        return jobs.create(session, new, idempotency_key=key, request_sha256=request)[0]


def claim(
    store: Store,
    id: str,
    owner: str = "me",
    *,
    lease_s: float = 60.0,
    max_attempts: int = 5,
    gone: bool = False,
) -> claims.Claim | None:
    with store.write() as session:
        return claims.claim(
            session, id, owner, lease_s, max_attempts=max_attempts, is_gone=lambda owner: gone
        )


def claimed(store: Store, id: str, owner: str = "me", **options: Any) -> claims.Claim:
    held = claim(store, id, owner, **options)
    assert held is not None
    return held


def sweep(store: Store, *, max_attempts: int = 5, gone: bool = False) -> int:
    with store.write() as session:
        return claims.sweep(session, max_attempts=max_attempts, is_gone=lambda owner: gone)


def read_job(store: Store, id: str) -> Job:
    with store.read() as session:
        job = session.get(Job, id)
        assert job is not None
        return job


def change(store: Store, id: str, **values: Any) -> None:
    """Set columns of a job directly."""
    with store.write() as session:
        session.execute(update(Job).where(Job.id == id).values(**values))


def due_now(store: Store, id: str) -> None:
    """End a job's delay between attempts."""
    with store.write() as session:
        session.execute(update(Job).where(Job.id == id).values(available_at=0.0))
        session.execute(update(Outbox).where(Outbox.job_id == id).values(due_at=0.0))


def history(store: Store, id: str) -> list[Event]:
    with store.read() as session:
        return jobs.list_events(session, id, after=0, limit=100_000)


def statuses(store: Store, id: str) -> list[str]:
    return [event.data["status"] for event in history(store, id) if event.type == "status"]


def gapless(store: Store, id: str) -> bool:
    return [event.seq for event in history(store, id)] == list(
        range(1, read_job(store, id).event_seq + 1)
    )


def messages(store: Store, id: str) -> list[Outbox]:
    with store.read() as session:
        return list(session.scalars(select(Outbox).where(Outbox.job_id == id)))


def stages(store: Store, id: str) -> dict[str, StageFile]:
    with store.read() as session:
        return {row.name: row for row in jobs.list_stage_files(session, id)}


def results(store: Store, id: str) -> dict[tuple[str, str], ResultFile]:
    with store.read() as session:
        return {(row.checkpoint, row.format): row for row in jobs.list_result_files(session, id)}


def processes(id: str) -> list[int]:
    """Return the living processes that log to the job's working folder."""
    return [pid for pid in alive() if f"-{id}-" in read_log_path(pid)]


def together(actions: list[Callable[[], Any]]) -> list[Any]:
    """Run the actions at the same time, each in a thread; return what each returned or raised."""
    answers: list[Any] = [None] * len(actions)
    barrier = threading.Barrier(len(actions))

    def act(index: int) -> None:
        barrier.wait()
        try:
            answers[index] = actions[index]()
        except Exception as error:
            answers[index] = error

    threads = [threading.Thread(target=act, args=(index,)) for index in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    return answers
