"""The job process: it has a working folder and a pipe, but no settings, no credentials and, where
the kernel allows that, no network.

`python -m tasks.processes.job FOLDER FD` reads `job.json`, runs the pipeline, and reports every
saved file to the supervisor as one JSON line on the file descriptor FD. It ends itself when the
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

CLONE_NEWNET = 0x40000000


def main() -> int:
    """Run the job of the folder; the exit status adds nothing to the messages."""
    folder = Path(sys.argv[1])
    pipe = Pipe(int(sys.argv[2]))
    _die_with_supervisor()
    _leave_network()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    job = json.loads((folder / "job.json").read_text())
    try:
        if job["spec"]["type"] == "family":
            from tasks.processes.family_turn import run_turn

            run_turn(folder, job, pipe)
        elif job["spec"].get("replicates", 1) > 1:
            from tasks.processes.replicates_turn import run_turn as run_replicates_turn

            run_replicates_turn(folder, job, pipe)
        else:
            from pruning.pipeline.run_job import run_job

            run_job(folder, job, pipe)
            pipe.send("done")
    except Exception as error:
        logging.exception("the job failed")
        pipe.send("error", **_describe_error(error))
        return 1
    return 0


def _describe_error(error: Exception) -> dict[str, Any]:
    from pruning.errors import SecateurError

    if isinstance(error, SecateurError):
        return {"code": error.code, "message": str(error), "retryable": error.retryable}
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return {
            "code": "disk_full",
            "message": f"no space left for the job's files: {error}",
            "retryable": True,
        }
    # torch reports a lack of memory as a RuntimeError, so the text decides.
    text = str(error)
    is_out_of_memory = "out of memory" in text or "can't allocate memory" in text
    if isinstance(error, MemoryError) or is_out_of_memory:
        return {"code": "out_of_memory", "message": text, "retryable": True}
    return {"code": "internal", "message": f"{type(error).__name__}: {error}", "retryable": False}


def _die_with_supervisor() -> None:
    """End this process group when the supervisor's death closes the pipe on stdin."""

    def watch() -> None:
        while sys.stdin.buffer.read(1):
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _leave_network() -> None:
    """Move to an empty network namespace; without the privilege to do so, nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET)


if __name__ == "__main__":
    sys.exit(main())
