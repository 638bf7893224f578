"""`secateur serve`: Valkey, workers and API in one process tree, on SQLite and a local folder."""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from tasks import owners
from tasks.embedded.valkey import build_server_command, build_socket_url
from tasks.helper import clean_environment
from tasks.launcher import PROCESS_ENVIRONMENT, SHARED

logger = logging.getLogger(__name__)

if _missing := [
    name
    for name in ("celery", "fastapi", "sqlalchemy", "torch", "uvicorn")
    if find_spec(name) is None
]:
    # Without this check each of the processes would fail for itself, in its own log.
    raise ImportError(f"the service needs {', '.join(_missing)}")

PR_SET_PDEATHSIG = 1
READY_S = 120.0
GRACE_S = 30.0
LOOK_S = 30.0
"""Seconds after which the children are looked at although no signal has come."""
USAGE = 2


@dataclass(kw_only=True)
class Child:
    """A process of the tree; it is restarted when it ends unasked."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    death_signal: int = signal.SIGKILL
    process: subprocess.Popen[bytes] | None = None
    sockets: tuple[socket.socket, ...] = ()
    """The sockets that it inherits, under the same numbers."""
    failures: int = 0
    next_start: float = 0.0

    def start(self) -> None:
        """Start the process in a session of its own, so that Ctrl-C reaches the parent alone.

        It dies with the parent.
        """
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[end.fileno() for end in self.sockets],
                preexec_fn=_prepare_death_with_parent(self.death_signal),
            )

    def stop(self) -> None:
        """Ask the process to end, and kill it after `GRACE_S` seconds."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            logger.warning("%s did not end in %g s", self.name, GRACE_S)
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@dataclass
class Tree:
    """The children in the order in which they start; they stop in the opposite order."""

    children: list[Child]
    bell: socket.socket
    """It can be read from after a signal: a child has ended, or the tree shall stop."""
    stopping: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> int:
        """Keep the children running until asked to stop; return the exit status of the tree."""
        while True:
            self._wait()
            if self.stopping.is_set():
                return 0
            for child in self.children:
                if child.process is None:
                    if time.monotonic() >= child.next_start:
                        child.start()
                    continue
                status = child.process.poll()
                if status is None:
                    continue
                child.process = None
                if child.name == "api" and status == USAGE:
                    _say(_read_last_lines(child.log))
                    return USAGE
                child.failures += 1
                child.next_start = time.monotonic() + min(10.0, 0.2 * 2**child.failures)
                _say(
                    f"{child.name} ended ({owners.describe_exit(status)}); it is started "
                    f"again. Log: {child.log}"
                )

    def _wait(self) -> None:
        """Wait for a signal, at most until a child is to be started."""
        starts = [child.next_start for child in self.children if child.process is None]
        wait_s = max(0.0, min(starts) - time.monotonic()) if starts else LOOK_S
        if select.select([self.bell], [], [], wait_s)[0]:
            self.bell.recv(4096)

    def stop(self) -> None:
        """End the children, last started first."""
        for child in reversed(self.children):
            child.stop()


def serve(host: str, port: int, data_dir: Path, workers: int = 1) -> int:
    """Run the service until Ctrl-C or SIGTERM; return 2 when the port or the folder is in use."""
    data_dir = data_dir.resolve()
    (data_dir / "logs").mkdir(parents=True, exist_ok=True)
    with (data_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(
                f"error: another service is running on {data_dir}; stop it or give another "
                "--data-dir"
            )
            return USAGE
        reason = _explain_taken_port(host, port)
        if reason is not None:
            _say(f"error: cannot listen on {host}:{port}: {reason}; give another --port")
            return USAGE
        sockets = _make_socket_folder(data_dir / "socket-folder")
        try:
            return _run(host, port, data_dir, sockets, workers)
        finally:
            shutil.rmtree(sockets, ignore_errors=True)


def _make_socket_folder(note: Path) -> Path:
    """Make a folder with a short path, which a socket needs, and write that path to `note`.

    The folder of a service that was killed is removed.
    """
    prefix = Path(tempfile.gettempdir()) / "secateur-socket-"
    if note.exists() and note.read_text().startswith(str(prefix)):
        shutil.rmtree(note.read_text(), ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix.name))
    note.write_text(str(folder))
    return folder


def _run(host: str, port: int, data_dir: Path, sockets: Path, workers: int) -> int:
    bell, ring = socket.socketpair()
    ring.setblocking(False)
    signal.set_wakeup_fd(ring.fileno(), warn_on_full_buffer=False)
    tree = Tree(_build_children(host, port, data_dir, sockets, workers), bell)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: tree.stopping.set())
    signal.signal(signal.SIGCHLD, lambda *_: None)  # without a handler no bell is rung
    announce = threading.Thread(
        target=_announce, args=(host, port, data_dir, tree.stopping), daemon=True
    )
    announce.start()
    try:
        return tree.watch()
    finally:
        _say("stopping; running jobs go on at the next start")
        tree.stop()


def _build_children(
    host: str, port: int, data_dir: Path, sockets: Path, workers: int
) -> list[Child]:
    environment = dict(os.environ)
    defaults = {
        "SECATEUR_DATABASE_URL": f"sqlite:///{data_dir / 'secateur.db'}",
        "SECATEUR_ARTIFACT_URL": f"file:{data_dir / 'artifacts'}",
        "SECATEUR_WORK_DIR": str(data_dir / "work"),
        "SECATEUR_CACHE_DIR": str(data_dir / "cache"),
    }
    logs = data_dir / "logs"
    children = []
    if "SECATEUR_BROKER_URL" not in environment:
        broker = sockets / "valkey.sock"
        defaults["SECATEUR_BROKER_URL"] = build_socket_url(broker)
        children.append(
            Child(
                name="valkey",
                command=build_server_command(data_dir / "valkey", broker),
                environment=environment,
                log=logs / "valkey.log",
                death_signal=signal.SIGTERM,
            )
        )
    for name in sorted(defaults.keys() & environment.keys()):
        _say(f"{name} is set and used instead of the default in {data_dir}")
    if sys.platform == "linux":
        children.append(_build_fork_server(sockets / "fork.sock", logs))
        environment[SHARED] = str(sockets / "fork.sock")
    environment = defaults | environment
    Path(environment["SECATEUR_WORK_DIR"]).mkdir(parents=True, exist_ok=True)
    cli = [sys.executable, "-m", "secateur.cli"]
    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    worker_environment = environment
    if workers > 1:  # together they use each core once
        worker_environment = {"SECATEUR_THREADS": str(threads)} | environment
    for number in range(1, workers + 1):
        name = "worker" if number == 1 else f"worker-{number}"
        children.append(
            Child(
                name=name,
                command=[*cli, "worker"],
                environment=worker_environment,
                log=logs / f"{name}.log",
            )
        )
    children.append(
        Child(
            name="api",
            command=[*cli, "api", "--host", host, "--port", str(port)],
            environment=environment,
            log=logs / "api.log",
        )
    )
    return children


def _build_fork_server(path: Path, logs: Path) -> Child:
    """Return the fork server that workers and API share; the path is that of its socket.

    The socket is bound here, so that requests wait while the server starts, or starts again.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(path))
    listener.listen()
    number = str(listener.fileno())
    return Child(
        name="fork server",
        command=[sys.executable, "-m", "tasks.processes.forkserver", number, "--listen"],
        environment=clean_environment() | PROCESS_ENVIRONMENT,
        log=logs / "fork-server.log",
        sockets=(listener,),
    )


def _announce(host: str, port: int, data_dir: Path, stopping: threading.Event) -> None:
    """Wait until the service is ready, and print where it is."""
    url_host = f"[{host}]" if ":" in host else host
    url = f"http://{url_host}:{port}"
    local_url = url.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]")
    give_up_at = time.monotonic() + READY_S
    reason = ""
    while time.monotonic() < give_up_at and not stopping.is_set():
        try:
            with urllib.request.urlopen(f"{local_url}/readyz", timeout=2):
                _say(f"ready at {url} (data in {data_dir}; Ctrl-C stops everything)")
                return
        except urllib.error.HTTPError as error:
            with error:
                reason = error.read(500).decode(errors="replace")
        except OSError as error:
            reason = str(error)
        stopping.wait(0.3)
    if not stopping.is_set():
        _say(f"not ready after {READY_S:g} s: {reason}; see {data_dir / 'logs'}")


def _explain_taken_port(host: str, port: int) -> str | None:
    """Return why the port cannot be listened on; None if it can."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return error.strerror or str(error)
    return None


def _prepare_death_with_parent(number: int) -> Callable[[], None] | None:
    """Return what a child runs before its program, so that it gets signal `number` when this
    process dies; None on systems that cannot do this.
    """
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def prepare() -> None:
        libc.prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # the parent died before the signal was arranged
            os._exit(1)

    return prepare


def _read_last_lines(path: Path, count: int = 5) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-count:])


def _say(message: str) -> None:
    sys.stderr.write(f"secateur: {message}\n")
    sys.stderr.flush()
