"""CPU time of a service that has nothing to do, beside a bare uvicorn and a bare Celery worker.

`python benchmarks/service_idle.py` starts `secateur serve`, and beside it a FastAPI application of
one route and a Celery worker of one task on the same broker, each as it comes. It prints the share
of a core that each process takes while nobody asks anything, and fails where that of the API or of
the worker is above 0.2 %.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from celery import Celery
from fastapi import FastAPI

from examples.embedded import service
from tasks.embedded.valkey import build_socket_url

SETTLE_S = 12.0
"""Seconds in which what is imported later is imported."""
WINDOWS = 3
WINDOW_S = 20.0
LIMIT = 0.002
NAMES = {
    "secateur.cli api": "API",
    "secateur.cli worker": "worker",
    "secateur.cli serve": "serve",
    "forkserver": "fork server",
    "--bare-api": "bare uvicorn",
    "--bare-worker": "bare Celery worker",
}


def main() -> int:
    """Measure and print; 1 where a limit does not hold."""
    shares: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, service(Path(folder)):
        broker = build_socket_url(Path((Path(folder) / "socket-folder").read_text(), "valkey.sock"))
        with run_bare("--bare-api", broker), run_bare("--bare-worker", broker):
            time.sleep(SETTLE_S)
            for _ in range(WINDOWS):
                before = {pid: read_cpu(pid) for pid in list_descendants()}
                time.sleep(WINDOW_S)
                for pid, (name, cpu_s) in before.items():
                    share = (read_cpu(pid)[1] - cpu_s) / WINDOW_S
                    shares.setdefault(name, []).append(share)
    failed = False
    for name, values in sorted(shares.items()):
        mean = sum(values) / len(values)
        limit = f", limit {LIMIT:.1%}" if name in ("API", "worker") else ""
        failed |= bool(limit) and mean > LIMIT
        print(
            f"{name:20} {mean:7.3%} of a core ({min(values):.3%} to {max(values):.3%} in windows "
            f"of {WINDOW_S:g} s){limit}"
        )
    return int(failed)


def list_descendants() -> list[int]:
    """Return the process ids of what this process has started, directly or not."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    pids = [os.getpid()]
    for pid in pids:
        pids += [child for child, parent in parents.items() if parent == pid]
    return pids[1:]


def read_cpu(pid: int) -> tuple[str, float]:
    """Return the name of a process and the CPU seconds of its threads, in the kernel too."""
    command = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    name = next((name for mark, name in NAMES.items() if mark in command), "broker")
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return name, sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


@contextmanager
def run_bare(kind: str, broker: str) -> Iterator[None]:
    """Run one of the bare processes until the block ends."""
    with subprocess.Popen(
        [sys.executable, __file__, kind, broker], stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield
        finally:
            process.kill()


def serve_bare() -> None:
    """Serve one route with uvicorn."""
    import uvicorn

    app = FastAPI()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        server.run(sockets=[listener])


def work_bare(broker: str) -> None:
    """Run a Celery worker with one task."""
    app = Celery("bare", broker=broker)
    app.conf.update(task_default_queue="bare", broker_connection_retry_on_startup=True)
    app.Worker(pool="threads", concurrency=1, loglevel="WARNING").start()


if __name__ == "__main__":
    if "--bare-api" in sys.argv:
        serve_bare()
    elif "--bare-worker" in sys.argv:
        work_bare(sys.argv[-1])
    else:
        sys.exit(main())
