"""The owner of a job: the process that holds it, named so that its death can be noticed later."""

from __future__ import annotations

import os
import signal
import socket
from functools import cache
from pathlib import Path


def identify_process() -> str:
    """Return the name of this process: `host/boot:namespace/pid/start`."""
    return f"{identify_host()}/{os.getpid()}/{_read_start_time(os.getpid())}"


def is_gone(owner: str) -> bool:
    """Return whether an owner on this host has ended; False for owners on other hosts."""
    parts = owner.rsplit("/", 2)
    if len(parts) != 3:
        return False
    host, pid, start_time = parts
    if host != identify_host() or not pid.isdigit():
        return False
    return _read_start_time(int(pid)) != start_time


def never_gone(owner: str) -> bool:
    """Return False: no owner is known to have ended."""
    return False


def describe_exit(returncode: int) -> str:
    """Return how a process ended: `SIGKILL`, or `exit status 1`."""
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"


@cache
def identify_host() -> str:
    """Return the name of this machine since its last start, and of this container: the first two
    parts of the names of its processes.
    """
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    if boot.exists() and namespace.exists():
        return f"{socket.gethostname()}/{boot.read_text().strip()}:{os.readlink(namespace)}"
    return f"{socket.gethostname()}/unknown"


def _read_start_time(pid: int) -> str:
    """Return the start time of a process in clock ticks since boot; empty when it has ended."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "" if Path("/proc/self/stat").exists() else _look_for_process(pid)
    # The name of the process, in brackets, may hold spaces: the fields are counted after it.
    fields = line.rpartition(")")[2].split()
    is_zombie = fields[0] == "Z"
    return "" if is_zombie else fields[19]


def _look_for_process(pid: int) -> str:
    """Return `alive` or an empty text, on a system without `/proc`."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return "alive"
    return "alive"
