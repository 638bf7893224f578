"""The checkpoint to ship under shift, by the guidelines of Lost in Pruning.

Source: Liebenwein, Baykal, Carter, Gifford and Rus, Lost in pruning: the effects of pruning neural
networks beyond test accuracy, MLSys 2021: do not prune where shifts are unexpected, prune
moderately where they are partly modelled, fully where all are modelled in training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
"""The name of the table in the section `prune_potential` that holds the potentials."""


def apply_guideline(
    recommendation: Recommendation,
    checkpoints: Sequence[Checkpoint],
    shifts: Shifts | None,
    potential: Section | None,
) -> Recommendation:
    """Return the recommendation under the guideline for what the user knows of shifts; unchanged
    where nothing is declared.

    Potentials come from the section `prune_potential`, at its margin, measured on validation images
    under the shifts that it evaluated. What ships is within the safe limits, not the estimates.
    """
    if shifts is None:
        return recommendation
    details = {} if potential is None else potential.details
    rows: list[dict[str, Any]] = details.get(VALIDATION, [])
    advice = ShiftAdvice(knowledge=shifts.knowledge, guideline=GUIDELINES[shifts.knowledge])
    if shifts.knowledge == "unexpected":
        reason = (
            "Ship the dense network: shifts of the data are unexpected, and what pruning "
            "costs under shifts that nobody has "
            f"named cannot be measured: {advice.guideline}. On the nominal data alone: "
            f"{recommendation.reason}"
        )
        return _recommend_dense(recommendation, _add_best_potential(advice, rows), reason)
    if shifts.knowledge == "modelled":
        reason = (
            f"{recommendation.reason} All shifts are declared to be modelled in training: the "
            f"guideline is to {advice.guideline}."
        )
        update = {"shifts": _add_best_potential(advice, rows), "reason": reason}
        return recommendation.model_copy(update=update)
    return _limit_by_worst_shift(recommendation, checkpoints, advice, rows, details.get("margin"))


def _limit_by_worst_shift(
    recommendation: Recommendation,
    checkpoints: Sequence[Checkpoint],
    advice: ShiftAdvice,
    rows: Sequence[dict[str, Any]],
    margin: float | None,
) -> Recommendation:
    """Return the checkpoint with the largest prune ratio that is safe under every shift that is not
    trained on, at the margin of the evaluation `prune_potential`.
    """
    held_out = [row for row in rows if row["held_out"] and "safe" in row]
    if not held_out:
        reason = (
            "Ship the dense network for now: shifts are partly modelled, and no prune "
            "potential under a shift that is not "
            "trained on was measured; add the evaluation prune_potential."
        )
        return _recommend_dense(recommendation, advice, reason)
    worst = _find_worst(held_out)
    allowed = [
        checkpoint
        for checkpoint in checkpoints
        if checkpoint.val_error_increase.value <= recommendation.margin
        and checkpoint.prune_ratio <= worst[_find_method(checkpoint, worst)]["safe"] + 1e-9
    ]
    if not allowed:
        method, row = max(worst.items(), key=lambda item: (item[1]["safe"], item[1]["potential"]))
        filled = _add_potentials(advice, rows, method, row)
        reason = _explain_dense(
            method,
            row,
            advice,
            is_any_safe=_is_any_safe(rows),
            margins=(recommendation.margin, margin),
        )
        return _recommend_dense(recommendation, filled, reason)
    best = max(
        allowed, key=lambda checkpoint: (checkpoint.prune_ratio, -checkpoint.val_error.value)
    )
    method = _find_method(best, worst)
    filled = _add_potentials(advice, rows, method, worst[method])
    return recommendation.model_copy(
        update={
            "checkpoint": best.id,
            "sparsity": best.sparsity,
            "shifts": filled,
            "reason": _explain_choice(
                best, method, filled, _name_margin(margin, name_reference(worst[method]))
            ),
        }
    )


def _find_worst(held_out: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the row of the shift with the smallest safe limit of each method, and of these the one
    with the smallest potential.
    """
    worst: dict[str, dict[str, Any]] = {}
    for row in held_out:
        method = row["method"]
        if method not in worst or _rank_row(row) < _rank_row(worst[method]):
            worst[method] = row
    return worst


def _rank_row(row: dict[str, Any]) -> tuple[float, float]:
    return row["safe"], row["potential"]


def _is_any_safe(rows: Sequence[dict[str, Any]]) -> bool:
    """Return whether any checkpoint is shown to stay within the margin without a shift."""
    return any(row.get("safe", 0) > 0 for row in rows if row["distribution"] == "nominal")


def _explain_dense(
    method: str,
    row: dict[str, Any],
    advice: ShiftAdvice,
    *,
    is_any_safe: bool,
    margins: tuple[float, float | None],
) -> str:
    """Return why no checkpoint is safe: what is known, and what is only estimated; `is_any_safe`
    without a shift. `margins` are those of the recommendation and of the evaluation.
    """
    where = f"under {row['distribution']}" if is_any_safe else "even without a shift"
    text = (
        f"Ship the dense network: shifts are partly modelled, the guideline is to "
        f"{advice.guideline}, and {where} no checkpoint that keeps the recommendation's margin of "
        f"{wording.percentage_points(margins[0])} on nominal images is shown to stay within "
        f"{_name_margin(margins[1], name_reference(row))} on "
        f"{wording.count_of(row['images'], 'validation image')}, at 95 %."
    )
    if row["potential"] > row["safe"]:
        text += (
            f" By the estimate under {row['distribution']}, "
            f"{wording.percent(row['potential'])} of the parameters could be pruned with {method}: "
            "more validation images would tell."
        )
    return text


def name_reference(row: Mapping[str, Any]) -> str:
    """Return the dense network that potentials are measured against; reports of earlier versions
    say nothing, and mean the control.
    """
    is_given = row.get("against", "control") == "given"
    return "the network as given" if is_given else "the dense control"


def _name_margin(margin: float | None, reference: str) -> str:
    """Return the margin of the evaluation `prune_potential`, with its size where it is known."""
    size = "" if margin is None else f", {wording.percentage_points(margin)}"
    return f"the margin of prune_potential{size} above {reference}"


def _recommend_dense(
    recommendation: Recommendation, advice: ShiftAdvice, reason: str
) -> Recommendation:
    """Return the recommendation of no checkpoint."""
    return recommendation.model_copy(
        update={"checkpoint": None, "sparsity": None, "shifts": advice, "reason": reason}
    )


def _explain_choice(best: Checkpoint, method: str, advice: ShiftAdvice, margin: str) -> str:
    nominal = wording.percent(advice.nominal_potential or 0.0)
    shifted = wording.percent(advice.shifted_potential or 0.0)
    safe = wording.percent_at_least(advice.safe_potential or 0.0)
    increase = wording.points_with_interval(best.error_increase.control, 2)
    return (
        f"{best.id} is what the guideline allows: shifts are partly modelled, and it is to "
        f"{advice.guideline}. "
        f"On the validation images, at {margin}, the nominal prune potential of {method} is "
        f"{nominal} of all parameters, that under {advice.worst_shift} {shifted}, and {safe} are "
        "safe under every shift that is not trained on, at 95 %; this checkpoint has "
        f"{wording.percent(best.prune_ratio)} of the parameters pruned, and its test error is "
        f"{increase} against the dense control."
    )


def _find_method(checkpoint: Checkpoint, known: dict[str, Any]) -> str:
    """Return the method of a checkpoint: its label; in reports of earlier versions, which have
    none, the longest of the known names that its id begins with.
    """
    if checkpoint.label in known:
        return checkpoint.label
    return max((name for name in known if checkpoint.id.startswith(f"{name}-")), key=len)


def _add_potentials(
    advice: ShiftAdvice, rows: Sequence[dict[str, Any]], method: str, worst: dict[str, Any]
) -> ShiftAdvice:
    """Return the advice with the potentials of a method, nominal and under its worst shift."""
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
            "safe_potential": worst.get("safe"),
        }
    )


def _add_best_potential(advice: ShiftAdvice, rows: Sequence[dict[str, Any]]) -> ShiftAdvice:
    """Return the advice with the potentials of the method that can be pruned most nominally, for
    information.
    """
    nominal = [row for row in rows if row["distribution"] == "nominal"]
    if not nominal:
        return advice
    best = max(nominal, key=lambda row: row["potential"])
    held_out = [row for row in rows if row["method"] == best["method"] and row["held_out"]]
    if not held_out:
        return advice.model_copy(update={"nominal_potential": best["potential"]})
    worst = min(held_out, key=lambda row: (row.get("safe", 0.0), row["potential"]))
    return _add_potentials(advice, rows, best["method"], worst)
