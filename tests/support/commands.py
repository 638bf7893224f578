"""What the imitated service answers to the command, and how tests call the command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.imitation import row

Run = Callable[..., tuple[int, str, str]]
"""Calls the command with arguments and returns its exit code, stdout and stderr."""
JOB = "/v1/jobs/job_12345678"
ROWS = (
    row(1, "status", status="running"),
    row(2, "stage", stage="prune", name="prune [0.5]"),
    row(3, "progress", done=1, total=2, eta_s=3700.4),
    row(4, "checkpoint", id="magnitude-0.8", sparsity=0.8, error={"value": 0.05}),
    row(5, "warning", message="slow"),
    row(6, "attempt", attempt=2, reason="lease lost"),
    row(7, "unheard_of", x=1),
    row(8, "status", status="succeeded"),
)
PREDICTED: dict[str, Any] = {
    "criterion": "magnitude",
    "confidence": 0.9,
    "law": {"sigma": 0.014, "warnings": ["few points"]},
    "predictions": [
        {
            "density": 0.1,
            "sparsity": 0.9,
            "error": {"value": 0.12, "low": 0.11, "high": 0.13, "n": 18},
            "extrapolated": True,
            "remark": "sparser than any point",
        },
        {
            "density": 0.01,
            "sparsity": 0.99,
            "error": None,
            "extrapolated": None,
            "remark": "insufficient_points: run 3 more",
        },
    ],
}
FLAGS = ["--model", "mdl_12345678", "--dataset", "builtin:digits", "--sparsity", "0.5"]
