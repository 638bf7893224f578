"""A module for processes that tests start: it does what its first argument says."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path


def main() -> int | None:
    """Do it, and return or raise what the exit status follows from."""
    match sys.argv[1]:
        case "return":
            return int(sys.argv[2])
        case "exit":
            sys.exit(int(sys.argv[2]))
        case "exit with a message":
            sys.exit("a message")
        case "raise":
            raise RuntimeError("broken on purpose")
        case "signal":
            os.kill(os.getpid(), signal.Signals[sys.argv[2]])
        case "sleep":
            time.sleep(600)
        case "describe":
            _describe(int(sys.argv[2]))
    return None


def _describe(channel: int) -> None:
    """Answer on each stream, and describe the process on the channel."""
    sys.stdout.write(f"out {sys.stdin.read()}\n")
    sys.stderr.write("err\n")
    open_descriptors = [
        # The folder itself is open while it is listed.
        int(name)
        for name in os.listdir("/proc/self/fd")
        if Path(f"/proc/self/fd/{name}").exists()
    ]
    seen = {
        "pid": os.getpid(),
        "group": os.getpgid(0),
        "session": os.getsid(0),
        "environment": dict(os.environ),
        "descriptors": open_descriptors,
        "has_torch": "torch" in sys.modules,
    }
    os.write(channel, json.dumps(seen).encode())


if __name__ == "__main__":
    sys.exit(main())
