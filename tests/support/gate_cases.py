"""A checkpoint by its counts of errors, and the gates that are checked of it."""

from __future__ import annotations

from typing import Any

from pruning.schemas.gates import Gates
from pruning.schemas.report import (
    Checkpoint,
    Estimate,
    Increase,
    Recommendation,
    Section,
)
from pruning.schemas.verdicts import PairedCounts
from pruning.verdict.gates import check_gates


def checkpoint(b: int = 0, c: int = 0, n: int = 1000, **changes: Any) -> Checkpoint:
    """A checkpoint whose network alone is wrong on b of n test images, and the control on c."""
    value = Estimate(value=(b - c) / n, low=(b - c) / n - 0.01, high=(b - c) / n + 0.01, n=n)
    counts = PairedCounts(only_checkpoint=b, only_reference=c, n=n)
    fields: dict[str, Any] = {
        "id": "magnitude-0.5",
        "label": "magnitude",
        "requested_sparsity": 0.5,
        "prune_ratio": 0.49,
        "error": Estimate(value=0.1, low=0.08, high=0.12, n=n),
        "error_increase": Increase(given=value, control=value, control_counts=counts),
        "size_bytes": {"sparse": 4000, "dense": 9000},
        "flops": 2_000_000,
        "latency_ms": (),
    }
    return Checkpoint.model_construct(**fields | changes)


def recommendation(cid: str | None = "magnitude-0.5") -> Recommendation:
    return Recommendation(checkpoint=cid, sparsity=0.5, margin=0.005, reason="Chosen.")


def check(best: Checkpoint, sections: dict[str, Section] | None = None, **gates: Any) -> Any:
    """The results of the gates on a checkpoint, the only one where there is one."""
    results = check_gates([best], recommendation(), Gates(**gates), sections)
    return results[0] if len(results) == 1 else results
