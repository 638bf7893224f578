"""Memory and start-up of the API: it never loads torch, and an upload of 1 GB streams.

`python benchmarks/api_memory.py` starts `secateur api` on a temporary folder, and prints its
start-up time against a bare `import torch`, its resident memory idle, and the largest it reached
while 1 GB was uploaded (refused at the end: random bytes are no model), as a share of the upload.
"""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

GIGABYTE = 10**9
CHUNK = 2**20


def main() -> int:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        port = _free_port()
        environment = os.environ | {
            "SECATEUR_DATABASE_URL": f"sqlite:///{folder}/secateur.db",
            "SECATEUR_ARTIFACT_URL": f"file:{folder}/artifacts",
            "SECATEUR_WORK_DIR": folder,
            "SECATEUR_BROKER_URL": f"redis+socket://{folder}/none.sock",
        }
        begin = time.perf_counter()
        with (Path(folder) / "log").open("wb") as log:
            api = subprocess.Popen(
                [sys.executable, "-m", "secateur.cli", "api", "--port", str(port)],
                env=environment,
                stdout=log,
                stderr=log,
            )
        try:
            _wait(port)
            started = time.perf_counter() - begin
            idle = _resident(api.pid)
            peak, seconds, status = _upload(port, api.pid)
        finally:
            api.terminate()
            api.wait()
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    torch_s = time.perf_counter() - begin
    print(
        f"start-up        {started:.2f} s to the first answer; {started / torch_s:.2f} of a bare "
        "'import torch'"
    )
    print(f"idle            {idle / 2**20:.0f} MiB resident")
    print(
        f"1 GB upload     peak {peak / 2**20:.0f} MiB, {(peak - idle) / 2**20:+.0f} MiB over "
        "idle = "
        f"{(peak - idle) / GIGABYTE:.1%} of the upload; {GIGABYTE / 1e6 / seconds:.0f} MB/s; "
        f"answer {status}"
    )
    return 0


def _upload(port: int, pid: int) -> tuple[int, float, int]:
    head = (
        b'--cut\r\nContent-Disposition: form-data; name="architecture"\r\n\r\ncifar_resnet\r\n'
        b'--cut\r\nContent-Disposition: form-data; name="file"; filename="model.safetensors"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n"
    )
    tail = b"\r\n--cut--\r\n"
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], _resident(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    begin = time.perf_counter()
    try:
        connection.putrequest("POST", "/v1/models")
        connection.putheader("Content-Type", "multipart/form-data; boundary=cut")
        connection.putheader("Content-Length", str(len(head) + GIGABYTE + len(tail)))
        connection.endheaders()
        connection.send(head)
        chunk = os.urandom(CHUNK)
        remaining = GIGABYTE
        while remaining:
            connection.send(chunk[:remaining])
            remaining -= min(remaining, CHUNK)
        connection.send(tail)
        status = connection.getresponse().status
    finally:
        done.set()
        watcher.join()
        connection.close()
    return peak[0], time.perf_counter() - begin, status


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _wait(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
