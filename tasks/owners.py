"""Who holds a job: a process on a host, in words that tell later whether it still lives."""

from __future__ import annotations

import os
import signal
import socket
from functools import cache
from pathlib import Path


def identify_process() -> str:
    """This process: `host/boot/pid/start`."""
    return f"{_identify_host()}/{os.getpid()}/{_read_start_time(os.getpid())}"


def is_gone(owner: str) -> bool:
    """Whether an owner on this host has ended; False for other hosts, of which nothing is known
    here.
    """
    parts = owner.rsplit("/", 2)
    if len(parts) != 3 or parts[0] != _identify_host() or not parts[1].isdigit():
        return False
    return _read_start_time(int(parts[1])) != parts[2]


def describe_exit(returncode: int) -> str:
    """How a process ended: `SIGKILL`, or `exit status 1`."""
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"


@cache
def _identify_host() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    if boot.exists() and namespace.exists():
        return f"{socket.gethostname()}/{boot.read_text().strip()}:{os.readlink(namespace)}"
    return f"{socket.gethostname()}/unknown"


def _read_start_time(pid: int) -> str:
    """The start time of a process in clock ticks since boot; empty when there is none (or it is a
    zombie).
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "" if Path("/proc/self/stat").exists() else _look_for_process(pid)
    return "" if fields[0] == "Z" else fields[19]


def _look_for_process(pid: int) -> str:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return "alive"
    return "alive"
