"""A short-lived helper process for work that needs torch or reads an uploaded file.

`run_helper(verb, payload)` runs it. The caller stays free of torch, and a file that crashes its
reader crashes the helper alone.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
from tempfile import TemporaryFile
from typing import IO, Any

from tasks.launcher import kill_group, launch
from tasks.owners import describe_exit

logger = logging.getLogger(__name__)

PASSED_ON = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "SECATEUR_PLUGIN_PATH",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
    "PYTHONPATH",
)
"""The environment of helper and job processes: no credentials, no URLs."""
SPIN = {"GOMP_SPINCOUNT": "30000"}
"""The number of turns that an OpenMP thread waits busily before it sleeps, a tenth of the default.

Training that has its cores to itself loses about 5 % of its speed by this. Beside other processes
the default halves the speed, since waiting threads keep working ones off the cores.
"""


TORCH_FREE = frozenset({"dataset"})
"""The verbs whose process imports no torch: a fresh interpreter is as fast and smaller."""


class HelperError(Exception):
    """A refusal of the helper, with a stable code and a pointer to the field."""

    def __init__(self, code: str, message: str, pointer: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.pointer = pointer


def clean_environment() -> dict[str, str]:
    """Return the environment without settings and secrets."""
    return SPIN | {name: os.environ[name] for name in (*PASSED_ON, *SPIN) if name in os.environ}


def run_helper(
    verb: str,
    payload: dict[str, Any],
    *,
    timeout_s: float = 600.0,
    memory_limit_bytes: int | None = None,
) -> dict[str, Any]:
    """Run `verb` (`model`, `layers`, `dataset`, `estimate`, `catalogue`) on the payload.

    Raises `HelperError` when the helper refuses it, takes too long or crashes.
    """
    request = json.dumps({"payload": payload, "memory_limit_bytes": memory_limit_bytes})
    with TemporaryFile() as question, TemporaryFile() as answer, TemporaryFile() as log:
        question.write(request.encode())
        question.seek(0)
        helper = launch(
            "tasks.processes.helper",
            [verb],
            streams=(question, answer, log),
            environment=clean_environment(),
            fresh=verb in TORCH_FREE,
        )
        try:
            returncode = helper.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise HelperError(
                "helper_timeout", f"the helper ({verb}) took more than {timeout_s:g} s"
            ) from None
        finally:
            kill_group(helper)
            helper.wait()
        lines, errors = _read_text(answer).splitlines(), _read_text(log)
    try:
        reply = json.loads(lines[-1])
    except (IndexError, ValueError):
        reason = describe_exit(returncode)
        logger.error("the helper for %r ended with %s: %s", verb, reason, errors[-2000:])
        raise HelperError("helper_crashed", f"the helper ({verb}) ended with {reason}") from None
    if "error" in reply:
        error = reply["error"]
        raise HelperError(error["code"], error["message"], error["pointer"])
    return dict(reply["result"])


def _read_text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
