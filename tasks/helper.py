"""A short-lived helper process for work that needs torch or reads an uploaded file.

`run_helper(verb, payload)` runs it. The caller stays free of torch, and a file that crashes its
reader crashes the helper alone.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from typing import Any

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
    """Run `verb` (`model`, `dataset`, `estimate`, `catalogue`) on the payload.

    Raises `HelperError` when the helper refuses it, takes too long or crashes.
    """
    request = json.dumps({"payload": payload, "memory_limit_bytes": memory_limit_bytes})
    try:
        helper = subprocess.run(
            [sys.executable, "-m", "tasks.processes.helper", verb],
            input=request,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=clean_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise HelperError(
            "helper_timeout", f"the helper ({verb}) took more than {timeout_s:g} s"
        ) from None
    try:
        reply = json.loads(helper.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        reason = describe_exit(helper.returncode)
        logger.error("the helper for %r ended with %s: %s", verb, reason, helper.stderr[-2000:])
        raise HelperError("helper_crashed", f"the helper ({verb}) ended with {reason}") from None
    if "error" in reply:
        error = reply["error"]
        raise HelperError(error["code"], error["message"], error["pointer"])
    return dict(reply["result"])
