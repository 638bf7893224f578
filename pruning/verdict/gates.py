"""Gates: whether the recommended checkpoint keeps the limits that the job set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pruning import wording
from pruning.schemas.recipe import Gates
from pruning.schemas.report import Checkpoint, Estimate, GateResult, Recommendation, Section


def check_gates(
    checkpoints: Sequence[Checkpoint],
    recommendation: Recommendation,
    gates: Gates,
    robustness: Section | None = None,
) -> tuple[GateResult, ...]:
    """Return each gate held against the recommended checkpoint on the test split; without a
    recommendation it fails.

    `max_delta_excess_error` fails where the section `robustness` is missing.
    """
    best = next(
        (checkpoint for checkpoint in checkpoints if checkpoint.id == recommendation.checkpoint),
        None,
    )
    results = []
    if gates.max_error_increase is not None:
        results.append(
            _check_gate(
                "max_error_increase",
                gates.max_error_increase,
                best,
                recommended=recommendation.checkpoint,
                quantity="test error",
                measured=None if best is None else best.error_increase.control,
            )
        )
    if gates.max_delta_excess_error is not None:
        results.append(
            _check_gate(
                "max_delta_excess_error",
                gates.max_delta_excess_error,
                best,
                recommended=recommendation.checkpoint,
                quantity="excess error under shift",
                measured=_find_excess_error(best, robustness),
            )
        )
    return tuple(results)


def _check_gate(
    name: Literal["max_error_increase", "max_delta_excess_error"],
    limit: float,
    best: Checkpoint | None,
    *,
    recommended: str | None,
    quantity: str,
    measured: Estimate | None,
) -> GateResult:
    if best is None:
        message = "no checkpoint could be recommended"
    elif measured is None:
        message = f"{best.id}: {quantity} was not measured"
    else:
        message = (
            f"{best.id}: {quantity} {wording.points_with_interval(measured, 2)} against the dense "
            f"control, limit {wording.percentage_points(limit)}"
        )
    return GateResult(
        name=name,
        limit=limit,
        checkpoint=recommended,
        measured=measured,
        passed=measured is not None and measured.value <= limit,
        message=message,
    )


def _find_excess_error(best: Checkpoint | None, robustness: Section | None) -> Estimate | None:
    """Return the excess error under shift of a checkpoint above that of the dense control."""
    if best is None or robustness is None:
        return None
    for row in robustness.details["excess_error"]:
        if row["checkpoint"] == best.id:
            return Estimate.model_validate(row["delta_excess_error"])
    return None
