"""The client stays light: no server, no tensors."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "numpy",
    "fastapi",
    "starlette",
    "celery",
    "sqlalchemy",
    "redis",
    "api",
    "tasks",
    "uvicorn",
)


@pytest.mark.parametrize("module", ["secateur", "secateur.cli"])
def test_import_is_light(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
