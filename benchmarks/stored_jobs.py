"""Reading jobs while 10,000 are stored: pages of the list, one job, and the stream of its history.

`python benchmarks/stored_jobs.py` fills a database, starts `secateur api` on it, and beside it a
bare FastAPI application under the same server settings, whose route returns the very document of
the service as a dictionary, and has no store, no keys and no metrics. Requests go to both in turn
over connections that stay open. It prints the 50th and 99th percentile of each, and fails where the
99th of the service is more than twice that of the bare route.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import insert

from tasks.store import Store
from tasks.store.tables import Event, Job, JobLabel

JOBS = 10_000
EVENTS = 20
"""Events of each job."""
REQUESTS = 200
WARM = 30
LIMIT = 2.0
REPEATS = 3
SPEC = {
    "type": "prune",
    "model": {"architecture": "mlp", "train": {"epochs": 1}},
    "dataset": {"builtin": "digits"},
    "targets": {"sparsity": [0.5, 0.8, 0.9, 0.95]},
    "retrain": {"mode": "fine_tune", "epochs": 2},
}


def main() -> int:
    """Measure and print; 1 where a limit does not hold."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/secateur.db"
        last = fill(Store(url))
        environment = os.environ | {
            "SECATEUR_DATABASE_URL": url,
            "SECATEUR_ARTIFACT_URL": f"file:{folder}/artifacts",
            "SECATEUR_WORK_DIR": folder,
            "SECATEUR_BROKER_URL": f"redis+socket://{folder}/none.sock",
        }
        with (
            serve([sys.executable, "-m", "secateur.cli", "api", "--port"], environment) as port,
            serve([sys.executable, __file__, "--bare"], environment) as bare_port,
        ):
            service = http.client.HTTPConnection("127.0.0.1", port)
            bare = http.client.HTTPConnection("127.0.0.1", bare_port)
            cursor = find_cursor(service)
            failed = False
            for name, path, accept in (
                ("first page", "/v1/jobs", "application/json"),
                ("page 50", f"/v1/jobs?cursor={cursor}", "application/json"),
                ("page by status", "/v1/jobs?status=failed", "application/json"),
                ("page by label", "/v1/jobs?label=team=7", "application/json"),
                ("poll", f"/v1/jobs/{last}", "application/json"),
                ("stream", f"/v1/jobs/{last}/events", "text/event-stream"),
            ):
                document = Path(folder) / "document"
                document.write_bytes(read(service, path, accept))
                bare_path = f"/bare/{name.replace(' ', '-')}"
                failed |= compare(
                    name, (service, path), (bare, f"{bare_path}?file={document}"), accept
                )
    return int(failed)


def fill(store: Store) -> str:
    """Store the jobs, each with its history, and return the id of the last."""
    ids = [f"job_{number:026d}" for number in range(JOBS)]
    store.create_tables()
    with store.write() as session:
        session.execute(insert(Job), [describe_job(id, place) for place, id in enumerate(ids)])
        labels = [
            {"job_id": id, "key": "team", "value": str(place % 100)} for place, id in enumerate(ids)
        ]
        session.execute(insert(JobLabel), labels)
        data = {"done": 1, "total": EVENTS, "eta_s": None}
        events = [
            {"job_id": id, "seq": seq, "at": float(seq), "type": "progress", "data": data}
            for id in ids
            for seq in range(1, EVENTS + 1)
        ]
        session.execute(insert(Event), events)
    store.close()
    return ids[-1]


def describe_job(id: str, place: int) -> dict[str, Any]:
    """Return the columns of a job; one in 200 has failed."""
    return {
        "id": id,
        "project": "default",
        "status": "failed" if place % 200 == 0 else "succeeded",
        "spec": SPEC | {"seed": place},
        "priority": 4,
        "available_at": 0.0,
        "created_at": float(place),
        "updated_at": float(place),
        "finished_at": float(place),
        "event_seq": EVENTS,
    }


def find_cursor(service: http.client.HTTPConnection) -> str:
    """Return the cursor of a page in the middle of the list."""
    cursor = ""
    for _ in range(49):
        service.request("GET", f"/v1/jobs?limit=100{cursor}")
        cursor = "&cursor=" + json.loads(service.getresponse().read())["next_cursor"]
    return cursor.removeprefix("&cursor=")


Target = tuple[http.client.HTTPConnection, str]
"""A connection and the path that is asked for."""


def compare(name: str, service: Target, bare: Target, accept: str) -> bool:
    """Print the percentiles of one request beside those of the bare route; return whether the
    limit does not hold.
    """
    ratios = []
    for _ in range(REPEATS):
        times: dict[str, list[float]] = {"service": [], "bare": []}
        for number in range(WARM + REQUESTS):
            for side, (connection, path) in (("service", service), ("bare", bare)):
                begin = time.perf_counter()
                read(connection, path, accept)
                if number >= WARM:
                    times[side].append(1e3 * (time.perf_counter() - begin))
        middle, tail = ({side: np.percentile(t, q) for side, t in times.items()} for q in (50, 99))
        ratios.append(float(tail["service"] / tail["bare"]))
    ratio = float(np.median(ratios))
    print(
        f"{name:20} p50 {middle['service']:5.1f} ms, bare {middle['bare']:5.1f} ms; p99 "
        f"{tail['service']:5.1f} ms, bare {tail['bare']:5.1f} ms; ratio of the p99 {ratio:.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}), limit {LIMIT:g}",
        flush=True,
    )
    return ratio > LIMIT


def read(connection: http.client.HTTPConnection, path: str, accept: str) -> bytes:
    """Return the body of an answer; the stream of a job that has ended is all of its history."""
    connection.request("GET", path, headers={"Accept": accept})
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == 200, body
    return body


@contextmanager
def serve(command: list[str], environment: dict[str, str]) -> Iterator[int]:
    """Run a server on a free port until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with subprocess.Popen(
        [*command, str(port)], env=environment, stderr=subprocess.DEVNULL
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    assert time.monotonic() < deadline, "the server does not answer"
                    time.sleep(0.1)
            yield port
        finally:
            process.terminate()


def serve_bare(port: int) -> None:
    """Serve the bare route."""
    import uvicorn
    from fastapi import FastAPI, Response
    from fastapi.responses import StreamingResponse

    app = FastAPI()

    documents: dict[str, Any] = {}

    @app.get("/bare/stream")
    def stream(file: Path) -> Response:
        return StreamingResponse(iter([file.read_bytes()]), media_type="text/event-stream")

    @app.get("/bare/{name}")
    def answer(name: str, file: Path) -> Any:
        if name not in documents:
            documents[name] = json.loads(file.read_bytes())
        return documents[name]

    uvicorn.run(app, port=port, log_level="warning", access_log=False, server_header=False)


if __name__ == "__main__":
    if "--bare" in sys.argv:
        serve_bare(int(sys.argv[-1]))
    else:
        sys.exit(main())
