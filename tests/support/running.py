"""A real `secateur serve` as a subprocess, and short ways to use it."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from secateur import Client, SecateurError

Answer = TypeVar("Answer")
PATIENCE_S = 150.0
FAST = {
    "SECATEUR_LEASE_S": "6",
    "SECATEUR_HEARTBEAT_S": "0.5",
    "SECATEUR_REAPER_S": "0.5",
    "SECATEUR_RELAY_S": "0.3",
    "SECATEUR_CHECKPOINT_STEPS": "25",
    "SECATEUR_THREADS": "1",
}
OFTEN = {"SECATEUR_CHECKPOINT_STEPS": "3"}
"""Saved so often that a job is sure to die between two saves of one training."""


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(
    check: Callable[[], Answer | None], description: str, patience_s: float = PATIENCE_S
) -> Answer:
    """Call `check` again and again, and return its first true answer."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if answer := check():
            return answer
        time.sleep(0.05)
    raise AssertionError(f"not within {patience_s:g} s: {description}")


class Running:
    """A service on a data folder; it can be stopped, killed and started again."""

    def __init__(self, folder: Path, workers: int = 1, **settings: str) -> None:
        self.folder, self.settings, self.count = folder, settings, workers
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = Client(self.url, settings.get("SECATEUR_API_KEY", ""))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Running:
        """Start the service and wait until it is ready."""
        folder = self.folder
        folder.mkdir(parents=True, exist_ok=True)
        environment = (
            {name: value for name, value in os.environ.items() if not name.startswith("SECATEUR_")}
            | FAST
            | self.settings
        )
        with (folder / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "secateur.cli",
                    "serve",
                    "--port",
                    str(self.port),
                    "--data-dir",
                    str(folder / "data"),
                    "--workers",
                    str(self.count),
                ],
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        until(self._ready, f"ready: {(folder / 'serve.log').read_text()}")
        return self

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "serve.log").read_text()
        try:
            self.client.ready()
        except SecateurError:
            return False
        return True

    def stop(self, number: int = signal.SIGINT) -> int:
        """Ask the service to end, and return its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(90)

    def close(self) -> None:
        """End the service, whatever its state."""
        self.client.close()
        if self.process is not None and self.process.poll() is None:
            self.kill_tree()

    def kill_tree(self) -> None:
        """Kill every process of the tree at once."""
        for pid in self.tree():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        assert self.process is not None
        self.process.wait(30)
        until(lambda: not self.job_processes() and not self.worker(), "every process is gone")

    def tree(self) -> list[int]:
        """Return the process ids of the service: itself and all its descendants."""
        assert self.process is not None
        parents = dict(_parents())
        pids = [self.process.pid]
        for pid in pids:
            pids += [
                child for child, parent in parents.items() if parent == pid and child not in pids
            ]
        return pids

    def worker(self) -> int | None:
        """Return the process id of a worker, if there is one."""
        return next(iter(self.workers()), None)

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        return [pid for pid in self._own_processes() if "secateur.cli\0worker" in _command(pid)]

    def job_processes(self) -> list[int]:
        """Return the process ids of the job processes."""
        return [pid for pid in alive() if str(self.folder / "data") in read_log_path(pid)]

    def _own_processes(self) -> list[int]:
        mark = f"{self.folder / 'data'}"
        return [pid for pid, _ in _parents() if mark in _environment(pid) or mark in _command(pid)]

    def events(self, job_id: str, type: str) -> list[dict[str, Any]]:
        """Return the data of a job's events of one type."""
        return [event.data for event in self.client.jobs.events(job_id) if event.type == type]

    def digests(self, job_id: str) -> dict[str, dict[str, str]]:
        """Return the SHA-256 of every checkpoint file as downloaded."""
        digests: dict[str, dict[str, str]] = {}
        for checkpoint in self.client.jobs.results(job_id).checkpoints:
            for format in ("sparse", "dense", "masks"):
                path = self.client.jobs.download(
                    job_id, checkpoint.id, self.folder / "download", format=format
                )
                digests.setdefault(checkpoint.id, {})[format] = hashlib.sha256(
                    path.read_bytes()
                ).hexdigest()
            assert digests[checkpoint.id] == {
                format: checkpoint.sha256[format] for format in ("sparse", "dense", "masks")
            }
        return digests


def alive() -> list[int]:
    """Return the ids of all processes that are not zombies."""
    return [pid for pid, _ in _parents()]


def _parents() -> list[tuple[int, int]]:
    processes = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                processes.append((int(entry.name), int(fields[1])))
    return processes


def read_log_path(pid: int) -> str:
    """Return the path of the file that is the standard output of a job process; empty for others.

    A forked process has the command line and the environment of the fork server.
    """
    try:
        path = os.readlink(f"/proc/{pid}/fd/1")
    except OSError:
        return ""
    return path if path.removesuffix(" (deleted)").endswith("/log") else ""


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def _environment(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:
        return ""


@contextmanager
def part(
    environment: dict[str, str], log: Path, *arguments: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `secateur ARGUMENTS` until the block ends."""
    with (
        log.open("wb") as file,
        subprocess.Popen(
            [sys.executable, "-m", "secateur.cli", *arguments],
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def ready(client: Client) -> bool:
    try:
        client.ready()
    except SecateurError:
        return False
    return True
