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
    """Each gate held against the recommended checkpoint on the test split; without a recommendation
    it fails.

    `max_delta_excess_error` fails where the section `robustness` is not there.
    """
    best = next((c for c in checkpoints if c.id == recommendation.checkpoint), None)
    found: list[GateResult] = []

    def hold(
        name: Literal["max_error_increase", "max_delta_excess_error"],
        limit: float | None,
        what: str,
        measured: Estimate | None,
    ) -> None:
        if limit is None:
            return
        message = (
            "no checkpoint could be recommended"
            if best is None
            else f"{best.id}: {what} was not measured"
            if measured is None
            else f"{best.id}: {what} {wording.points_with_interval(measured, 2)} against the dense "
            f"control, limit {wording.percentage_points(limit)}"
        )
        found.append(
            GateResult(
                name=name,
                limit=limit,
                checkpoint=recommendation.checkpoint,
                measured=measured,
                passed=measured is not None and measured.value <= limit,
                message=message,
            )
        )

    hold(
        "max_error_increase",
        gates.max_error_increase,
        "test error",
        None if best is None else best.error_increase.control,
    )
    rows = [] if best is None or robustness is None else robustness.details["excess_error"]
    hold(
        "max_delta_excess_error",
        gates.max_delta_excess_error,
        "excess error under shift",
        next(
            (
                Estimate.model_validate(row["delta_excess_error"])
                for row in rows
                if best and row["checkpoint"] == best.id
            ),
            None,
        ),
    )
    return tuple(found)
