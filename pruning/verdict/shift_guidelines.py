"""Which checkpoint to ship under shift: the guidelines of Lost in Pruning.

Source: Liebenwein, Baykal, Carter, Gifford and Rus, Lost in pruning: the effects of pruning neural
networks beyond test accuracy, MLSys 2021: do not prune where shifts are unexpected, prune
moderately where they are partly modelled, fully where all are modelled in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pruning import wording
from pruning.schemas.recipe import Shifts
from pruning.schemas.report import Checkpoint, Recommendation, Section, ShiftAdvice

GUIDELINES = {
    "unexpected": "do not prune where shifts are unexpected",
    "partly_modelled": "prune at most as much as the worst shift that is not trained on allows",
    "modelled": "prune as much as the nominal data allow where all shifts are modelled in training",
}
VALIDATION = "potential_on_validation"
"""The table of the section `prune_potential` that is read here."""


def apply_guideline(
    found: Recommendation,
    checkpoints: Sequence[Checkpoint],
    shifts: Shifts | None,
    potential: Section | None,
) -> Recommendation:
    """The recommendation under the guideline for what the user knows of shifts; as it was where
    nothing is declared.

    Potentials come from the section `prune_potential`, at its margin, of validation images under
    the shifts it looked at.
    """
    if shifts is None:
        return found
    rows: list[dict[str, Any]] = [] if potential is None else potential.details.get(VALIDATION, [])
    advice = ShiftAdvice(knowledge=shifts.knowledge, guideline=GUIDELINES[shifts.knowledge])
    if shifts.knowledge == "unexpected":
        return found.model_copy(
            update={
                "checkpoint": None,
                "sparsity": None,
                "shifts": _best(advice, rows),
                "reason": (
                    "Ship the dense network: shifts of the data are unexpected, and what pruning "
                    "costs under shifts that nobody has "
                    f"named cannot be measured: {advice.guideline}. On the nominal data alone: "
                    f"{found.reason}"
                ),
            }
        )
    if shifts.knowledge == "modelled":
        return found.model_copy(
            update={
                "shifts": _best(advice, rows),
                "reason": (
                    f"{found.reason} All shifts are declared to be modelled in training: the "
                    f"guideline is to {advice.guideline}."
                ),
            }
        )
    worst = {
        row["method"]: row
        for row in sorted(rows, key=lambda row: -row["potential"])
        if row["held_out"]
    }
    if not worst:
        return found.model_copy(
            update={
                "checkpoint": None,
                "sparsity": None,
                "shifts": advice,
                "reason": (
                    "Ship the dense network for now: shifts are partly modelled, and no prune "
                    "potential under a shift that is not "
                    "trained on was measured; add the evaluation prune_potential."
                ),
            }
        )
    fits = [
        one
        for one in checkpoints
        if one.val_error_increase.value <= found.margin
        and one.prune_ratio <= worst[_label(one, worst)]["potential"] + 1e-9
    ]
    if not fits:
        method, row = max(worst.items(), key=lambda item: item[1]["potential"])
        return found.model_copy(
            update={
                "checkpoint": None,
                "sparsity": None,
                "shifts": _filled(advice, rows, method, row),
                "reason": (
                    "Ship the dense network: shifts are partly modelled, the guideline is to "
                    f"{advice.guideline}, and under "
                    f"{row['distribution']} no checkpoint stays within the margin of the dense "
                    "control on validation images."
                ),
            }
        )
    best = max(fits, key=lambda one: (one.prune_ratio, -one.val_error.value))
    method = _label(best, worst)
    filled = _filled(advice, rows, method, worst[method])
    return found.model_copy(
        update={
            "checkpoint": best.id,
            "sparsity": best.sparsity,
            "shifts": filled,
            "reason": (
                f"Ship {best.id}: shifts are partly modelled, and the guideline is to "
                f"{advice.guideline}. On the validation images "
                f"the nominal prune potential of {method} is "
                f"{wording.percent(filled.nominal_potential or 0.0)} of all parameters, the "
                "smallest over the shifts that are not trained on "
                f"{wording.percent(filled.shifted_potential or 0.0)} (under "
                f"{filled.worst_shift}); this checkpoint has {wording.percent(best.prune_ratio)} of "
                "the parameters pruned, and its test "
                f"error is {wording.points_with_interval(best.error_increase.control, 2)} against the "
                "dense control."
            ),
        }
    )


def _label(one: Checkpoint, known: dict[str, Any]) -> str:
    """The method of a checkpoint: the longest of the known names that its id begins with."""
    return max((name for name in known if one.id.startswith(f"{name}-")), key=len)


def _filled(
    advice: ShiftAdvice, rows: Sequence[dict[str, Any]], method: str, worst: dict[str, Any]
) -> ShiftAdvice:
    nominal = next(
        row["potential"]
        for row in rows
        if row["method"] == method and row["distribution"] == "nominal"
    )
    return advice.model_copy(
        update={
            "nominal_potential": nominal,
            "shifted_potential": worst["potential"],
            "worst_shift": worst["distribution"],
        }
    )


def _best(advice: ShiftAdvice, rows: Sequence[dict[str, Any]]) -> ShiftAdvice:
    """The method that can be pruned most nominally, for information."""
    nominal = [row for row in rows if row["distribution"] == "nominal"]
    if not nominal:
        return advice
    method = max(nominal, key=lambda row: row["potential"])["method"]
    held = [row for row in rows if row["method"] == method and row["held_out"]]
    if not held:
        return advice.model_copy(
            update={"nominal_potential": max(row["potential"] for row in nominal)}
        )
    return _filled(advice, rows, method, min(held, key=lambda row: row["potential"]))
