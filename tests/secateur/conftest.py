"""Fixtures: the imitated service, a client that does not really sleep, and the command."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from secateur import Client, Policy
from secateur.cli import main
from tests.support.commands import JOB, PREDICTED, ROWS, Run
from tests.support.imitation import WEIGHTS, Answer, Imitation, job, results, sse


@pytest.fixture
def service() -> Iterator[Imitation]:
    imitation = Imitation()
    yield imitation
    imitation.close()


@pytest.fixture
def sleeps() -> list[float]:
    return []


@pytest.fixture
def client(service: Imitation, sleeps: list[float]) -> Iterator[Client]:
    with Client(service.url, "key", sleep=sleeps.append, policy=Policy(retries=3)) as made:
        yield made


@pytest.fixture
def run(
    service: Imitation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    monkeypatch.setenv("SECATEUR_URL", service.url)
    monkeypatch.setenv("SECATEUR_API_KEY", "key")

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def finished(service: Imitation) -> Imitation:
    """A service with one job that runs to its end."""
    service.on("POST /v1/jobs", Answer(202, job("queued")))
    service.on(f"GET {JOB}", job())
    service.on(f"GET {JOB}/results", results())
    service.on(
        f"GET {JOB}/events",
        lambda call: (
            sse(*ROWS)
            if "event-stream" in call.headers["accept"]
            else Answer(200, {"data": [], "has_more": False})
        ),
    )
    for verb in ("cancel", "pause", "resume", "retry"):
        service.on(f"POST {JOB}/{verb}", Answer(202, job("running")))
    service.on(
        f"GET {JOB}/report",
        lambda call: Answer(
            200, b'{"schema_version": 1}' if call.query["format"] == "json" else b"# Report"
        ),
    )
    service.on(f"GET {JOB}/checkpoints/magnitude-0.8", Answer(200, WEIGHTS))
    service.on("GET /version", {"version": "0.1.0"})
    service.on(
        "GET /v1/methods",
        {"criteria": [{"name": "magnitude", "summary": "size", "params": {}}], "schedules": []},
    )
    for kind, identifier in (("models", "mdl_12345678"), ("datasets", "dst_12345678")):
        service.on(f"POST /v1/{kind}", Answer(201, {"id": identifier}))
        service.on(
            f"GET /v1/{kind}", {"data": [{"id": identifier, "name": "[b]n[/b]"}], "has_more": False}
        )
        service.on(f"GET /v1/{kind}/{identifier}", {"id": identifier})
        service.on(f"DELETE /v1/{kind}/{identifier}", Answer(204))
    service.on("GET /v1/jobs", {"data": [job()], "has_more": False})
    service.on(f"POST {JOB}/predict", PREDICTED)
    return service
