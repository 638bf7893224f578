"""The server itself, in a process of its own: binding, streams, memory, shutdown."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from tasks.store import Store, assets, jobs
from tests.support.api_world import CATALOGUE, SPEC

ROOT = Path(__file__).parents[2]
Start = Callable[..., subprocess.Popen[str]]


@contextmanager
def serving(folder: Path) -> Iterator[Start]:
    """Yield a function that runs `run(host, port)` on the folder; its broker is away."""
    processes = []
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("SECATEUR_")
    } | {
        "SECATEUR_DATABASE_URL": f"sqlite:///{folder}/new/db.sqlite",
        "SECATEUR_WORK_DIR": str(folder / "work"),
        "SECATEUR_ARTIFACT_URL": f"file:{folder}/artifacts",
        "SECATEUR_BROKER_URL": "redis+socket:///nowhere/s",
    }

    def begin(host: str = "127.0.0.1", port: int = 0, **settings: str) -> subprocess.Popen[str]:
        code = f"import sys; from api.main import run; sys.exit(run({host!r}, {port}))"
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**environment, **settings},
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start servers on the test's folder."""
    with serving(tmp_path) as begin:
        yield begin


@dataclass(frozen=True)
class Shared:
    """A server with a key that several tests send large requests to."""

    process: subprocess.Popen[str]
    line: str
    """The first line that it wrote."""
    url: str
    key: str = "Authorization: Bearer secret"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """Start a server that these tests do not harm, on every address."""
    with serving(tmp_path_factory.mktemp("server")) as begin:
        process = begin("0.0.0.0", SECATEUR_API_KEY="secret", SECATEUR_MAX_UPLOAD_BYTES=str(10**9))
        line, url = listening(process)
        yield Shared(process, line, url.replace("0.0.0.0", "127.0.0.1"))


def listening(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Return the server's first line and its address, once it answers."""
    assert process.stderr is not None
    line = process.stderr.readline()
    url = re.search(r"http://\S+?:\d+", line)
    assert url is not None, line + process.stderr.read()
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            if httpx2.get(f"{url[0]}/healthz").status_code == 200:
                return line, url[0]
        except httpx2.TransportError:
            time.sleep(0.1)
    raise AssertionError("the server does not answer")


def test_without_a_key_only_loopback_is_bound(start: Start, shared: Shared) -> None:
    refused = start("0.0.0.0")
    _, text = refused.communicate(timeout=60)
    assert refused.returncode == 2
    assert "no API key is set" in text
    assert "SECATEUR_API_KEY" in text
    assert "no API key" not in shared.line
    line, _ = listening(start())
    assert "open to every program on this machine" in line


def test_a_port_in_use_is_a_clear_error(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = start(port=port)
        _, text = refused.communicate(timeout=60)
    assert refused.returncode == 2
    assert text == f"secateur api: cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_open_streams_and_an_absent_broker_do_not_hold_the_server(
    start: Start, tmp_path: Path
) -> None:
    process = start()
    _, url = listening(process)
    store = Store(f"sqlite:///{tmp_path}/new/db.sqlite")
    with store.write() as session:
        assets.publish_catalogue(session, CATALOGUE)
        job, _ = jobs.create(
            session,
            jobs.NewJob(
                project="default",
                spec=SPEC,
                model_id=None,
                rewind_model_id=None,
                dataset_id=None,
                priority=4,
                deadline_s=None,
                labels={},
            ),
        )
    assert (
        httpx2.get(f"{url}/readyz", timeout=20)
        .json()["detail"]
        .startswith("the broker does not answer")
    )
    with httpx2.stream(
        "GET", f"{url}/v1/jobs/{job.id}/events", headers={"Accept": "text/event-stream"}, timeout=30
    ) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "id: 1"
        with store.write() as session:
            locked = jobs.lock_job(session, job.id)
            assert locked is not None
            jobs.set_status(session, locked, "running")
        assert any(line == "id: 2" for line in lines)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        list(lines)
    _, text = process.communicate(timeout=20)
    assert time.monotonic() - began < 8
    assert process.returncode == 0
    assert "Traceback" not in text
    store.close()


def test_an_upload_takes_constant_memory(shared: Shared) -> None:
    def resident() -> int:
        status = Path(f"/proc/{shared.process.pid}/status").read_text()
        return (
            int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
            * 1024
        )

    def body() -> Iterator[bytes]:
        yield (
            b'--XX\r\nContent-Disposition: form-data; name="sha256"\r\n\r\n'
            + b"0" * 64
            + b'\r\n--XX\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        )
        for _ in range(150):
            yield b"x" * 10**6
        yield b"\r\n--XX--\r\n"

    before = resident()
    response = httpx2.post(
        f"{shared.url}/v1/models",
        content=body(),
        timeout=120,
        headers={
            "Content-Type": "multipart/form-data; boundary=XX",
            "Authorization": "Bearer secret",
        },
    )
    assert (response.status_code, response.json()["code"]) == (422, "checksum_mismatch")
    assert resident() - before < 40 * 10**6


def test_a_client_that_leaves_in_the_middle_leaves_nothing(start: Start, tmp_path: Path) -> None:
    process = start()
    _, url = listening(process)
    address = url.removeprefix("http://")
    host, port = address.split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(
            f"POST /v1/models HTTP/1.1\r\nHost: {address}\r\nContent-Length: 5000000\r\n".encode()
            + b"Content-Type: multipart/form-data; boundary=XX\r\n\r\n"
            + b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            + b"x" * 2_000_000
        )
        until = time.monotonic() + 10
        while not (folders := list((tmp_path / "work").glob("*"))) and time.monotonic() < until:
            time.sleep(0.02)
        assert folders
    while list((tmp_path / "work").glob("*")):
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, text = process.communicate(timeout=20)
    assert (process.returncode, text) == (0, "")


def test_a_refused_body_ends_the_upload(shared: Shared) -> None:
    """The answer to 20 MB of JSON comes although the client is still sending."""
    headers = {"Authorization": "Bearer secret"}
    status = httpx2.post(
        f"{shared.url}/v1/jobs",
        content=b" " * 20_000_000,
        timeout=30,
        headers={"Content-Type": "application/json", **headers},
    ).status_code
    assert status == 413
    assert httpx2.get(f"{shared.url}/v1/jobs", headers=headers).json()["data"] == []


def exchange(url: str, head: list[str], body: bytes) -> bytes:
    """Send all of a request before reading anything, as simple clients do; return the answer."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as sock:
        sock.sendall(
            "\r\n".join([*head, f"Host: {host}:{port}", "Connection: close", "", ""]).encode()
            + body
        )
        answer = b""
        while part := sock.recv(65536):
            answer += part
        return answer


def test_a_refusal_reaches_a_client_that_sends_everything_first(shared: Shared) -> None:
    url = shared.url
    body = b'{"type": "' + b"a" * 20_000_000 + b'"}'
    common = ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    answer = exchange(url, ["POST /v1/jobs HTTP/1.1", shared.key, *common], body)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"payload_too_large" in answer
    assert exchange(url, ["POST /v1/jobs HTTP/1.1", *common], body).startswith(b"HTTP/1.1 401")
    assert exchange(url, ["POST /nowhere HTTP/1.1", *common], body).startswith(b"HTTP/1.1 404")


def test_a_client_that_waits_for_100_continue_is_refused_before_it_sends(shared: Shared) -> None:
    answer = exchange(
        shared.url,
        [
            "POST /v1/jobs HTTP/1.1",
            shared.key,
            "Expect: 100-continue",
            "Content-Type: application/json",
            "Content-Length: 20000000",
        ],
        b"",
    )
    assert answer.startswith(b"HTTP/1.1 413")
