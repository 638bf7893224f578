"""Starting job and helper processes: forked from a server that has imported torch already, or as
fresh interpreters.

A forked process starts in milliseconds, a fresh one imports torch for seconds.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO

from tasks.processes.forkserver import CHANNEL

START_S = 300.0
"""Seconds that the fork server has to import torch and to fork a first process."""
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "1073741824", "MALLOC_MMAP_THRESHOLD_": "1073741824"}
"""Keeps glibc from returning every batch's memory to the kernel and fetching it again."""
SHARED = "SECATEUR_FORK_SERVER"
"""The environment variable with the path of the socket of a fork server that others use, too."""
PROCESS_ENVIRONMENT = ALLOCATOR | {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    # Asks the driver's library for devices, as a process that has asked CUDA cannot be forked.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}
"""Settings that have to be there before torch is imported."""


class ForkedProcess:
    """A process of the fork server, with the methods of `subprocess.Popen` that are needed here."""

    def __init__(self, pid: int, status: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while the process runs."""
        return self._read_status(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit status; raises `subprocess.TimeoutExpired`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = 1.0 if deadline is None else min(1.0, max(0.0, deadline - time.monotonic()))
            returncode = self._read_status(left)
            if returncode is not None:
                return returncode
            if deadline is not None and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)

    def _read_status(self, timeout: float) -> int | None:
        with self._lock:
            if self.returncode is None and _is_readable(self._status, timeout):
                text = os.read(self._status, 64)
                # A server that has died took its children with it, and says nothing.
                self.returncode = int(text) if text else -signal.SIGKILL
                os.close(self._status)
            return self.returncode


File = IO[bytes] | int
"""A file or its descriptor."""
Process = ForkedProcess | subprocess.Popen[bytes]


def kill_group(process: Process) -> None:
    """End a process that runs, and all that it has started."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@dataclass
class ForkServer:
    """The fork server of this process, started when it is needed first; safe among threads.

    Where the service has one for all of its processes (`SHARED`), it is that one.
    """

    bare: bool = False
    """Whether the server imports nothing ahead."""
    trains: bool = True
    """Whether its processes train; what only training needs is imported ahead, too."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _server: subprocess.Popen[bytes] | None = None
    _socket: socket.socket | None = None

    def fork(
        self,
        module: str,
        arguments: list[str],
        descriptors: list[int],
        environment: dict[str, str],
    ) -> ForkedProcess:
        """Run `main()` of a module in a process of its own session, with stdin, stdout, stderr and
        perhaps `CHANNEL` in `descriptors`.

        Raises `OSError` where the server or the process cannot be started.
        """
        request = {"module": module, "arguments": arguments, "environment": environment}
        message = json.dumps(request).encode()
        with self._lock:
            try:
                return self._ask(message, descriptors, environment)
            except OSError:
                if self._is_alive():
                    raise  # no process could be forked: the others go on
                self._close()
                return self._ask(message, descriptors, environment)

    def _is_alive(self) -> bool:
        """Return whether the server runs; one that has just died is given a second to be gone.

        It writes nothing to its socket, which can be read from only once it has been closed.
        """
        return self._socket is not None and not _is_readable(self._socket.fileno(), 1.0)

    def _ask(
        self, message: bytes, descriptors: list[int], environment: dict[str, str]
    ) -> ForkedProcess:
        if self._socket is None:
            self._start(environment)
        assert self._socket is not None
        read, write = os.pipe()
        try:
            sent = [*descriptors[:3], write, *descriptors[3:]]
            socket.send_fds(self._socket, [message], sent)
        except OSError:
            os.close(read)
            raise
        finally:
            os.close(write)
        try:
            return ForkedProcess(_read_pid(read), read)
        except OSError:
            os.close(read)
            raise

    def _start(self, environment: dict[str, str]) -> None:
        """Connect to the shared server, else start one."""
        shared = os.environ.get(SHARED)
        if shared is not None and not self.bare:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._socket.connect(shared)
            return
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self._server = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tasks.processes.forkserver",
                    str(other.fileno()),
                    *(["--bare"] if self.bare else []),
                    *([] if self.trains else ["--no-training"]),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(other.fileno(),),
                start_new_session=True,
                env=environment,
            )
        # A server that is still importing does not see that its socket is closed.
        atexit.register(self.close)

    @property
    def pid(self) -> int | None:
        """The process id of a server that this process has started; None without one."""
        return None if self._server is None else self._server.pid

    def close(self) -> None:
        """End the server and its processes; the next request starts another."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        if self._server is not None:
            self._server.kill()
            self._server.wait()
        self._socket = self._server = None


def _is_readable(descriptor: int, timeout: float) -> bool:
    """Return whether there is something to read, or the end, within seconds.

    `select.select` takes no descriptor above 1023, which a server of many streams has.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(1000 * timeout))


def _read_pid(status: int) -> int:
    """Return the process id that a forked process writes first."""
    if not _is_readable(status, START_S):
        raise OSError(f"the fork server did not answer for {START_S:g} s")
    text = b""
    while not text.endswith(b"\n"):
        byte = os.read(status, 1)
        if not byte:
            raise OSError("the fork server could not start a process")
        text += byte
    return int(text)


FORK_SERVER = ForkServer()


def launch(
    module: str,
    arguments: list[str],
    *,
    streams: tuple[File, File, File],
    environment: dict[str, str],
    channel: int | None = None,
    fresh: bool = False,
) -> Process:
    """Run `main()` of a module in a process of its own session and group, with its stdin, stdout
    and stderr in `streams`.

    The module finds the number of `channel`, a descriptor, in the argument `{channel}`. A `fresh`
    process is an interpreter of its own, into which nothing has been imported.
    """
    environment = environment | PROCESS_ENVIRONMENT
    can_fork = sys.platform == "linux" and not fresh
    number = CHANNEL if can_fork else channel
    arguments = [str(number) if text == "{channel}" else text for text in arguments]
    if can_fork:
        descriptors = [file if isinstance(file, int) else file.fileno() for file in streams]
        descriptors += [] if channel is None else [channel]
        return FORK_SERVER.fork(module, arguments, descriptors, environment)
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=streams[0],
        stdout=streams[1],
        stderr=streams[2],
        pass_fds=() if channel is None else (channel,),
        start_new_session=True,
        env=environment,
    )
