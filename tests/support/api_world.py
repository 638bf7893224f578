"""A service on a temporary folder, its helper imitated, and short ways to fill its store."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from api.services import Services
from pruning.schemas.job import TERMINAL
from tasks.artifacts import hash_file
from tasks.store import assets, jobs, new_id
from tasks.store.tables import Dataset, Model, ResultFile

ADMIN = "bootstrap-secret"
SPEC: dict[str, Any] = {
    "type": "prune",
    "model": {"architecture": "mlp", "train": {"epochs": 1}},
    "dataset": {"builtin": "digits"},
    "targets": {"sparsity": [0.5, 0.9]},
}
WEIGHTS = b"weights" * 300_000
FILE = {"file": ("net.safetensors", WEIGHTS)}
MODEL = {"architecture": "mlp"}
ESTIMATE: dict[str, Any] = {
    "rounds": 2,
    "steps": 20,
    "flops": 1e9,
    "memory_bytes": 10**6,
    "units": 42.0,
    "parts": {"training": 30.0, "measuring": 12.0},
    "evaluations": {},
    "wall_times": [],
    "warnings": [],
}


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def entry(name: str, **properties: Any) -> dict[str, Any]:
    return {"name": name, "summary": f"The {name}.", "params": schema(**properties)}


CATALOGUE: dict[str, Any] = {
    "criteria": [entry("magnitude", p={"type": "integer", "minimum": 1}), entry("random")],
    "allocations": [entry("global"), entry("uniform")],
    "sparsifiers": [entry("top_k")],
    "schedules": [entry("targets_only"), entry("geometric", fraction={"type": "number"})],
    "evaluations": [entry("accuracy")],
    "datasets": [entry("digits")],
    "corruptions": [entry("fog"), entry("snow")],
    "architectures": [
        entry(
            "mlp",
            hidden={"type": "array", "items": {"type": "integer"}},
            activation={"type": "string", "default": "relu"},
        ),
        {**entry("odd"), "params": {**schema(size={"type": "integer"}), "required": ["size"]}},
    ],
}


@dataclass
class Helper:
    """Stands in for the helper process, and remembers its questions."""

    questions: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    error: Exception | None = None
    model: dict[str, Any] = field(default_factory=dict)
    """What a file says of itself."""
    gate: threading.Event | None = None
    """Answers wait for it."""
    lock: Any = field(default_factory=threading.Lock)

    def __call__(self, verb: str, payload: dict[str, Any], **limits: Any) -> dict[str, Any]:
        with self.lock:
            self.questions.append((verb, payload))
        if self.gate is not None:
            assert self.gate.wait(30)
        if self.error is not None:
            raise self.error
        if verb == "model":
            assert Path(payload["path"]).is_file()
            return {
                "parameters": 100,
                "prunable": 90,
                "kwargs": {**payload["kwargs"], "classes": 2},
                "outputs": 2,
                "channels": 3,
                **self.model,
            }
        if verb == "dataset":
            Path(payload["output"]).write_bytes(b"tensors")
            return {
                "classes": ["cat", "dog"],
                "shape": [3, 8, 8],
                "counts": {"train": 4, "test": 2},
                "task": "classification",
                "notes": [],
                "groups": {"sex": {"f": 1, "m": 1}},
                "guessing_error": 0.5,
            }
        return dict(ESTIMATE)


@dataclass
class World:
    """A client and the service behind it."""

    client: TestClient
    helper: Helper
    folder: Path

    @property
    def services(self) -> Services:
        services: Services = self.client.app.state.services  # type: ignore[attr-defined]
        return services

    def publish(self, document: dict[str, Any] = CATALOGUE) -> None:
        with self.services.store.write() as session:
            assets.publish_catalogue(session, document)

    def key(self, *scopes: str, project: str = "default") -> dict[str, str]:
        """Return the header of a new key."""
        secret = new_id("key")
        with self.services.store.write() as session:
            assets.add_key(
                session,
                id=new_id("key"),
                project=project,
                name="k",
                secret=secret,
                scopes=list(scopes),
            )
        return {"Authorization": f"Bearer {secret}"}

    def model(self, project: str = "default", **fields: Any) -> str:
        id = new_id("mdl")
        row = {
            "name": "m",
            "architecture": "mlp",
            "kwargs": {},
            "normalize": None,
            "classes": None,
            "sha256": "0" * 64,
            "size_bytes": 7,
            "parameters": 100,
            "prunable": 90,
            **fields,
        }
        self.services.artifacts.put(f"models/{id}/state.safetensors", self._file(b"weights"))
        with self.services.store.write() as session:
            assets.add(
                session,
                Model(id=id, project=project, artifact=f"models/{id}/state.safetensors", **row),
            )
        return id

    def dataset(
        self,
        project: str = "default",
        classes: tuple[str, ...] = ("cat", "dog"),
        counts: dict[str, int] | None = None,
    ) -> str:
        id = new_id("dst")
        self.services.artifacts.put(f"datasets/{id}/data.safetensors", self._file(b"images"))
        with self.services.store.write() as session:
            assets.add(
                session,
                Dataset(
                    id=id,
                    project=project,
                    name="d",
                    sha256="1" * 64,
                    size_bytes=6,
                    classes=list(classes),
                    shape=[3, 8, 8],
                    counts=counts or {"train": 4, "test": 2},
                    normalize=None,
                    artifact=f"datasets/{id}/data.safetensors",
                ),
            )
        return id

    def job(self, status: str = "queued", project: str = "default", **new: Any) -> str:
        """Create a job in the store, brought to `status`, and return its id."""
        time.sleep(0.002)  # ids sort by the millisecond
        fields = {
            "model_id": None,
            "rewind_model_id": None,
            "dataset_id": None,
            "labels": {},
            **new,
        }
        with self.services.store.write() as session:
            job, _ = jobs.create(
                session,
                jobs.NewJob(
                    project=project,
                    spec=SPEC,
                    priority=4,
                    deadline_s=None,
                    progress_total=10.0,
                    **fields,
                ),
            )
        if status != "queued":
            self.move(job.id, status)
        return job.id

    def move(self, id: str, status: str) -> None:
        """Change a job as a worker would."""
        with self.services.store.write() as session:
            job = jobs.lock_job(session, id)
            assert job is not None
            jobs.set_status(session, job, status)
            if status in TERMINAL:
                job.finished_at = assets.read_clock(session)

    def result(self, job_id: str, checkpoint: str, format: str, content: bytes) -> str:
        """Store a result file, and return its sha256."""
        key = f"jobs/{job_id}/attempts/1/{checkpoint}.{format}"
        path = self._file(content)
        self.services.artifacts.put(key, path)
        with self.services.store.write() as session:
            session.add(
                ResultFile(
                    job_id=job_id,
                    checkpoint=checkpoint,
                    format=format,
                    artifact=key,
                    sha256=hash_file(path),
                    size_bytes=len(content),
                    fence=1,
                )
            )
        return hashlib.sha256(content).hexdigest()

    def files(self) -> list[str]:
        """Return the paths of all files in the artifact store and the upload folder."""
        roots = (self.folder / "artifacts", self.folder / "work")
        return sorted(
            str(path.relative_to(self.folder))
            for root in roots
            for path in root.rglob("*")
            if path.is_file()
        )

    def _file(self, content: bytes) -> Path:
        path = self.folder / "source"
        path.write_bytes(content)
        return path


def fault(response: Any, status: int, code: str, pointer: str | None = None) -> dict[str, Any]:
    """Return the problem document, after a check of its shape."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert set(body) == {
        "type",
        "title",
        "status",
        "detail",
        "instance",
        "code",
        "errors",
        "request_id",
    }
    assert body["status"] == status
    assert body["code"] == code, body
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["type"] == f"urn:secateur:problem:{code}"
    assert response.headers["x-content-type-options"] == "nosniff"
    for item in body["errors"]:
        assert {"pointer", "code", "message"} <= set(item)
    if pointer is not None:
        assert pointer in [item["pointer"] for item in body["errors"]], body["errors"]
    return body


def count_rows(world: World, table: type) -> int:
    """Return the number of rows of a table."""
    with world.services.store.read() as session:
        return session.query(table).count()
