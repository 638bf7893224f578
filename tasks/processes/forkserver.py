"""The fork server: an interpreter that has imported torch once, and forks job and helper processes.

`python -m tasks.processes.forkserver FD` reads requests from the socket FD, each a message of JSON
with the descriptors of the new process, and ends with its children when the other side closes it.
With `--listen` FD is a socket on which clients connect: each of them takes its children along when
it leaves, and the server goes on. It never touches a device and starts no thread of its own, so
that its children may.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import importlib
import json
import logging
import os
import pkgutil
import selectors
import signal
import socket
import sys
import tempfile
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import NamedTuple, NoReturn

PR_SET_PDEATHSIG = 1
CHANNEL = 3
"""The number in the child of the descriptor that it was given beside its standard ones."""
STATUS = 3
"""The place of the descriptor for the exit status among those of a request."""
DESCRIPTORS = 5
"""The largest number of descriptors of a request: stdin, stdout, stderr, status, channel."""
LARGEST = 2**20
"""The largest size of a request in bytes."""
MODULES = (
    "pruning.pipeline.estimate_job",
    "pruning.pipeline.run_job",
    "tasks.processes.estimates",
    "tasks.processes.family_turn",
    "tasks.processes.helper",
    "tasks.processes.job",
)
"""The modules that are imported before the first fork, beside the methods."""
LATER_MODULES = ("scipy.stats", "sklearn.datasets", "torchvision.models", "timm")
"""The modules that are imported while there is nothing to fork."""
TRAINING_MODULES = ("torch._dynamo",)
"""The modules that only training needs: an optimiser imports this one at its first step."""
PACKAGES = (
    "pruning.allocations",
    "pruning.architectures",
    "pruning.criteria",
    "pruning.data.corruptions",
    "pruning.evaluations",
    "pruning.granularities",
    "pruning.schedules",
    "pruning.sparsifiers",
)
"""The packages of methods. Every child adds the plug-ins for itself: they may change meanwhile."""


class Forked(NamedTuple):
    """A child that has not ended."""

    client: socket.socket
    """The side that asked for it."""
    status: int
    """The descriptor to which its exit status is written."""


@dataclass
class Server:
    """The clients, and the children that have not ended."""

    clients: list[socket.socket]
    listener: socket.socket | None = None
    """The socket on which further clients connect; without one the server ends with the last."""
    later: list[str] = field(default_factory=list)
    """The modules that are still to be imported."""
    children: dict[int, Forked] = field(default_factory=dict)
    """The children, by process id."""
    own: list[int] = field(default_factory=list)
    """The descriptors of the server itself, beside those of its clients."""

    def run(self) -> None:
        """Fork until every client has left, and no other one can come."""
        wake_read, wake_write = socket.socketpair()
        for end in (wake_read, wake_write):
            end.setblocking(False)
        signal.set_wakeup_fd(wake_write.fileno())
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        with selectors.EpollSelector() as selector:
            for source in (wake_read, self.listener, *self.clients):
                if source is not None:
                    selector.register(source, selectors.EVENT_READ)
            self.own = [end.fileno() for end in (wake_read, wake_write, selector)]
            while self.clients or self.listener is not None:
                patience = 0.0 if self.later else None
                ready = {key.fileobj for key, _ in selector.select(patience)}
                if not ready:
                    _import_modules([self.later.pop(0)])
                if wake_read in ready:
                    with suppress(BlockingIOError):
                        wake_read.recv(4096)
                    self._reap()
                for client in [client for client in self.clients if client in ready]:
                    if not self._answer(client):
                        selector.unregister(client)
                        self._dismiss(client)
                if self.listener is not None and self.listener in ready:
                    client, _ = self.listener.accept()
                    self.clients.append(client)
                    selector.register(client, selectors.EVENT_READ)

    def _answer(self, client: socket.socket) -> bool:
        """Fork a process for the client's next request; returns whether there was one."""
        try:
            message, descriptors, _, _ = socket.recv_fds(client, LARGEST, DESCRIPTORS)
        except ConnectionResetError:
            return False
        if not message:
            return False
        # The kernel leaves out the descriptors for which there is no room.
        child = _try_fork() if len(descriptors) > STATUS else None
        if child == 0:
            _run_child(json.loads(message), descriptors, self._list_descriptors())
        for number, descriptor in enumerate(descriptors):
            if child is not None and number == STATUS:
                self.children[child] = Forked(client, descriptor)
            else:
                os.close(descriptor)
        return True

    def _list_descriptors(self) -> list[int]:
        """Return every descriptor that a child is not to have."""
        sockets = [*self.clients] if self.listener is None else [*self.clients, self.listener]
        statuses = [child.status for child in self.children.values()]
        return [*self.own, *statuses, *(end.fileno() for end in sockets)]

    def _dismiss(self, client: socket.socket) -> None:
        """End the children of a client that has left."""
        self.clients.remove(client)
        client.close()
        for pid, child in self.children.items():
            if child.client is client:
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)

    def _reap(self) -> None:
        """Report every child that has ended."""
        while self.children:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            status = self.children.pop(pid).status
            with suppress(BrokenPipeError):
                os.write(status, f"{os.waitstatus_to_exitcode(wait_status)}\n".encode())
            os.close(status)


def _try_fork() -> int | None:
    """Fork; None where the system has no room for a process.

    The other side sees then that the status is closed without a process id.
    """
    try:
        return os.fork()
    except OSError:
        return None


def _run_child(
    request: dict[str, object], descriptors: list[int], inherited: list[int]
) -> NoReturn:
    """Become the process that was asked for, and end with the exit status of its `main`."""
    exit_status = 1
    try:
        # The session comes first: who knows the process id may end the whole group.
        os.setsid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in inherited:
            os.close(descriptor)
        os.write(descriptors[STATUS], f"{os.getpid()}\n".encode())
        _take_descriptors(descriptors)
        os.environ.clear()
        os.environ.update(request["environment"])  # type: ignore[call-overload]
        tempfile.tempdir = None
        sys.argv = [str(request["module"]), *request["arguments"]]  # type: ignore[misc]
        exit_status = importlib.import_module(str(request["module"])).main() or 0
    except SystemExit as error:
        exit_status = _read_exit_status(error)
    except BaseException:
        traceback.print_exc()
    finally:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(exit_status)


def _read_exit_status(error: SystemExit) -> int:
    """Return the exit status of a process that ends so; a message is written as Python does."""
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    sys.stderr.write(f"{error.code}\n")
    return 1


def _take_descriptors(descriptors: list[int]) -> None:
    """Give the descriptors of a request the numbers 0, 1, 2 and `CHANNEL`, and close the rest."""
    stdin, stdout, stderr, _, *channel = [
        fcntl.fcntl(descriptor, fcntl.F_DUPFD, 100) for descriptor in descriptors
    ]
    for descriptor in descriptors:
        os.close(descriptor)
    for number, descriptor in enumerate((stdin, stdout, stderr, *channel)):
        os.dup2(descriptor, number)
    os.closerange(100, 100 + 2 * DESCRIPTORS)


def _import_ahead() -> None:
    """Import what every job needs; what cannot be imported fails in the process that needs it."""
    modules = list(MODULES)
    for package in PACKAGES:
        with suppress(Exception):
            paths = importlib.import_module(package).__path__
            modules += [f"{package}.{module.name}" for module in pkgutil.iter_modules(paths)]
    _import_modules(modules)
    entry_points()  # remembers what the folders of packages hold; every child looks for plug-ins


def _import_modules(modules: list[str]) -> None:
    for module in modules:
        with suppress(Exception):
            importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page that it looks at


def main() -> None:
    """Serve on the socket whose number is the first argument.

    With `--listen` clients connect to it, with `--bare` nothing is imported ahead, with
    `--no-training` not what only training needs.
    """
    given = socket.socket(fileno=int(sys.argv[1]))
    later: list[str] = []
    if "--bare" not in sys.argv:
        _import_ahead()
        later += LATER_MODULES
        later += () if "--no-training" in sys.argv else TRAINING_MODULES
    if "--listen" in sys.argv:
        Server([], given, later).run()
    else:
        Server([given], later=later).run()


if __name__ == "__main__":
    main()
