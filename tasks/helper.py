"""A short-lived helper process for what needs torch or reads a stranger's file: `run_helper(verb,
payload)`.

The caller stays free of torch, and a file that crashes its reader crashes the helper alone.
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
"""How long an OpenMP thread spins before it sleeps: ten times shorter than the default. Alone on
its cores, training loses about 5 % of its speed; beside other processes the default halves it, as
threads that wait keep those off that work.
"""


class HelperError(Exception):
    """What the helper refuses, with a stable code and a pointer to the field."""

    def __init__(self, code: str, message: str, pointer: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.pointer = code, message, pointer


def clean_environment() -> dict[str, str]:
    """The environment without settings and secrets."""
    return SPIN | {name: os.environ[name] for name in (*PASSED_ON, *SPIN) if name in os.environ}


def run_helper(
    verb: str,
    payload: dict[str, Any],
    *,
    timeout_s: float = 600.0,
    memory_limit_bytes: int | None = None,
) -> dict[str, Any]:
    """Run `verb` (`model`, `dataset`, `estimate`, `catalogue`) on the payload; `HelperError` when
    it is refused.
    """
    request = json.dumps({"payload": payload, "memory_limit_bytes": memory_limit_bytes})
    try:
        done = subprocess.run(
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
            "helper_timeout", f"reading this took more than {timeout_s:g} s"
        ) from None
    try:
        reply = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        reason = describe_exit(done.returncode)
        logger.error("the helper for %r ended with %s: %s", verb, reason, done.stderr[-2000:])
        raise HelperError(
            "helper_crashed", f"the process that reads this ended with {reason}"
        ) from None
    if "error" in reply:
        raise HelperError(
            reply["error"]["code"], reply["error"]["message"], reply["error"]["pointer"]
        )
    return dict(reply["result"])
