"""Real servers on loopback: Valkey, PostgreSQL and an S3 imitation.

A test is skipped where its server is missing.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
import redis

from tasks.embedded.valkey import build_server_command, build_socket_url, find_server_binary

DEADLINE_S = 60.0
UNPRIVILEGED = ("postgres", "nobody")


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(
    condition: Callable[[], object], description: str, deadline_s: float = DEADLINE_S
) -> None:
    """Poll until the condition holds."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"waited {deadline_s:g} s in vain for {description}")
        time.sleep(0.02)


def tied() -> list[str]:
    """Return the words before a command that end it together with the test process.

    There are none where the tool for that is missing.
    """
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


@dataclass
class Valkey:
    """A Valkey server on a unix socket, as the embedded service starts it."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.folder / "valkey.sock"

    @property
    def url(self) -> str:
        return build_socket_url(self.socket)

    @contextmanager
    def client(self) -> Iterator[redis.Redis]:
        with redis.Redis(unix_socket_path=str(self.socket)) as client:
            yield client

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*tied(), *build_server_command(self.folder / "data", self.socket)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until(self.answers, "Valkey")

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def flush(self) -> None:
        with self.client() as client:
            client.flushall()


@contextmanager
def valkey_server() -> Iterator[Valkey]:
    """Run a server for one user.

    Its socket has a short path, since the kernel limits that to about 100 letters.
    """
    try:
        find_server_binary()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    with tempfile.TemporaryDirectory(prefix="vk-", dir="/tmp") as folder:
        server = Valkey(Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def valkey_shared() -> Iterator[Valkey]:
    with valkey_server() as server:
        yield server


@pytest.fixture
def valkey(valkey_shared: Valkey) -> Valkey:
    """Return an empty Valkey."""
    valkey_shared.flush()
    return valkey_shared


@dataclass
class Postgresql:
    """A PostgreSQL server that trusts loopback."""

    port: int
    count: Iterator[int] = field(default_factory=itertools.count)

    def new_database(self) -> str:
        """Create an empty database and return its URL."""
        name = f"t{next(self.count)}"
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql://tester@127.0.0.1:{self.port}/{name}"

    def answers(self) -> bool:
        try:
            psycopg.connect(self._dsn("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _dsn(self, database: str) -> str:
        return f"host=127.0.0.1 port={self.port} user=tester dbname={database}"


def _postgresql_programs() -> Path | None:
    """Return the folder of initdb and postgres: the newest of Debian's, else that on the PATH."""
    binaries = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        key=lambda path: int(path.parts[-3].split(".")[0]),
    )
    on_path = shutil.which("initdb")
    if binaries:
        return binaries[-1].parent
    return Path(on_path).resolve().parent if on_path else None


def _owner() -> dict[str, object]:
    """Return the arguments of Popen that run PostgreSQL, which refuses root, as another user."""
    if os.geteuid() != 0:
        return {}
    import pwd

    for name in UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    pytest.skip("PostgreSQL does not run as root, and there is no user to run it as")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgresql]:
    """Return a PostgreSQL server for the session."""
    programs = _postgresql_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server (initdb, postgres) on this machine")
    owner = _owner()
    root = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    server = Postgresql(free_port())
    process = None
    try:
        root.chmod(0o755)
        data = root / "data"
        data.mkdir(mode=0o700)
        if owner:
            os.chown(data, owner["user"], owner["group"])  # type: ignore[arg-type]
        subprocess.run(
            [
                programs / "initdb",
                "-D",
                data,
                "-U",
                "tester",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--no-sync",
                "--no-locale",
            ],
            check=True,
            capture_output=True,
            cwd=root,
            **owner,
        )  # type: ignore[call-overload]
        with (root / "log").open("wb") as log:
            process = subprocess.Popen(
                [
                    *tied(),
                    str(programs / "postgres"),
                    "-D",
                    str(data),
                    "-h",
                    "127.0.0.1",
                    "-p",
                    str(server.port),
                    "-k",
                    "",
                    "-c",
                    "fsync=off",
                    "-c",
                    "max_connections=200",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=root,
                **owner,
            )  # type: ignore[call-overload]
        until(lambda: process.poll() is not None or server.answers(), "PostgreSQL")
        assert process.poll() is None, (root / "log").read_text()
        yield server
    finally:
        if process is not None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Return the endpoint of an S3 imitation."""
    server_module = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    server = server_module.ThreadedMotoServer("127.0.0.1", free_port(), verbose=False)
    server.start()
    yield f"http://127.0.0.1:{server._port}"
    server.stop()


@dataclass(frozen=True)
class Bucket:
    """A bucket, with the settings that reach it."""

    url: str
    endpoint: str


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Return an empty bucket, with credentials in the environment."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    reset = urllib.request.Request(f"{s3_server}/moto-api/reset", method="POST")
    make = urllib.request.Request(f"{s3_server}/bucket", method="PUT")
    for request in (reset, make):
        with urllib.request.urlopen(request, timeout=30):
            pass
    return Bucket("s3://bucket/some/prefix", s3_server)
