"""The job process: a working folder and a pipe, no settings, no credentials, and no network where
the kernel allows it.

`python -m tasks.processes.job FOLDER FD`: reads `job.json`, runs the pipeline, and tells the
supervisor of every saved file as one JSON line on the file descriptor. It ends itself when the
supervisor dies.
"""

from __future__ import annotations

import ctypes
import errno
import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from tasks.processes.pipe import Pipe

PR_SET_PDEATHSIG = 1
CLONE_NEWNET = 0x40000000


def main() -> int:
    """Run the job of the folder; the exit status says nothing that a message did not."""
    folder, pipe = Path(sys.argv[1]), Pipe(int(sys.argv[2]))
    _die_with_supervisor()
    _leave_network()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    job = json.loads((folder / "job.json").read_text())
    try:
        if job["spec"]["type"] == "family":
            from tasks.processes.family_turn import run_turn

            run_turn(folder, job, pipe)
        else:
            from pruning.pipeline.run_job import run_job

            run_job(folder, job, pipe)
            pipe.send("done")
    except Exception as error:
        from pruning.errors import SecateurError

        logging.exception("the job failed")
        pipe.send("error", **_describe_error(error, SecateurError))
        return 1
    return 0


def _describe_error(error: Exception, known: type[Any]) -> dict[str, Any]:
    if isinstance(error, known):
        return {"code": error.code, "message": str(error), "retryable": error.retryable}
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return {
            "code": "disk_full",
            "message": f"no space left for the job's files: {error}",
            "retryable": True,
        }
    if (
        isinstance(error, MemoryError)
        or "out of memory" in str(error)
        or "can't allocate memory" in str(error)
    ):
        return {"code": "out_of_memory", "message": str(error), "retryable": True}
    return {"code": "internal", "message": f"{type(error).__name__}: {error}", "retryable": False}


def _die_with_supervisor() -> None:
    """Parent-death signal where there is one, end of the pipe on stdin everywhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while sys.stdin.buffer.read(1):
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _leave_network() -> None:
    """A network namespace of its own, with nothing in it; needs a privilege, and is left out
    without it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET)


if __name__ == "__main__":
    sys.exit(main())
