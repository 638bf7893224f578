"""The embedded service for a script: started on a free port, stopped at the end."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secateur import Client, SecateurError


@contextmanager
def service(folder: Path, workers: int = 1) -> Iterator[str]:
    """Run `secateur serve` on a free port, its data in the folder, until the block ends; yield its
    address.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "secateur.cli",
            "serve",
            "--port",
            str(port),
            "--data-dir",
            folder,
            "--workers",
            str(workers),
        ]
    )
    try:
        wait_ready(url, process)
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def wait_ready(url: str, process: subprocess.Popen[bytes], timeout_s: float = 120.0) -> None:
    """Wait until the service reports that it is ready; exits where it ends or is too late."""
    deadline = time.monotonic() + timeout_s
    with Client(url) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise SystemExit(f"the service ended with exit status {process.returncode}")
            try:
                client.ready()
                return
            except SecateurError:
                time.sleep(0.3)
    raise SystemExit(f"the service was not ready after {timeout_s:g} s")
