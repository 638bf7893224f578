"""Gates: whether the recommended checkpoint keeps the limits that the job set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pruning import wording
from pruning.measurement.needed_images import round_up_images
from pruning.measurement.paired import adjust_holm
from pruning.schemas.estimates import Estimate
from pruning.schemas.gates import Gates
from pruning.schemas.report import Checkpoint, Recommendation, Section
from pruning.schemas.verdicts import GateResult, Outcome
from pruning.verdict.gate_readings import Reading, list_readings
from pruning.verdict.increases import FAIL_CONFIDENCE, count_deciding_images, judge


def check_gates(
    checkpoints: Sequence[Checkpoint],
    recommendation: Recommendation,
    gates: Gates,
    sections: Mapping[str, Section] | None = None,
) -> tuple[GateResult, ...]:
    """Return each gate held against the recommended checkpoint on the test split; without a
    recommendation all are undecided, as there is nothing to hold them against.

    Gates on errors are tested together at the confidence of `gates` (Holm): with probability 1 -
    confidence at most, one passes whose limit is not kept. What a gate reads from a section that is
    missing is undecided.
    """
    best = next(
        (checkpoint for checkpoint in checkpoints if checkpoint.id == recommendation.checkpoint),
        None,
    )
    readings = list_readings(gates, best, sections or {})
    if best is None:
        return tuple(_report_unevaluated(reading) for reading in readings)
    tested = [reading for reading in readings if reading.increase is not None]
    p_values = [reading.p_value_below() for reading in tested]
    adjusted = dict(zip(map(id, tested), adjust_holm(p_values), strict=True))
    levels = dict(zip(map(id, tested), list_levels(p_values, 1 - gates.confidence), strict=True))
    return tuple(
        _check_tested(reading, best, levels[id(reading)], adjusted[id(reading)])
        if reading.increase is not None
        else _report_decided(reading, best)
        for reading in readings
    )


def list_levels(p_values: Sequence[float], alpha: float) -> list[float]:
    """Return the level that Holm's procedure holds each p-value against: alpha / (m - i) for the
    i-th smallest of m, counted from 0, and for all after the first that is above its level that
    same level.

    >>> [round(level, 3) for level in list_levels([0.03, 0.001, 0.2], 0.06)]
    [0.03, 0.02, 0.06]
    >>> [round(level, 3) for level in list_levels([0.04, 0.001, 0.2], 0.06)]
    [0.03, 0.02, 0.03]
    """
    levels = [alpha] * len(p_values)
    level = alpha
    is_stopped = False
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if not is_stopped:
            level = alpha / (len(p_values) - rank)
        levels[index] = level
        is_stopped = is_stopped or p_values[index] > level
    return levels


def _check_tested(reading: Reading, best: Checkpoint, level: float, adjusted: float) -> GateResult:
    """Return the outcome of a gate on an increase at its level of significance."""
    increase = reading.increase
    assert increase is not None
    outcome = judge(increase, reading.limit, level)
    low, high = increase.compute_limits(1 - level)
    needed = None
    if outcome == "undecided":
        needed = count_deciding_images(increase, reading.limit, level)
    value = Estimate(value=increase.value, low=low, high=high)
    explained = explain_outcome(
        outcome,
        low=low,
        limit=reading.limit,
        images=increase.images,
        needed=needed,
        replicates=increase.replicates,
    )
    digits = wording.choose_digits_apart(value, reading.limit)
    message = (
        f"{best.id}: {reading.quantity} {wording.points_with_interval(value, digits)} against the "
        f"dense control, limits of the test, each end one-sided at {format_confidence(1 - level)}; "
        "limit "
        f"{wording.percentage_points(reading.limit, digits)}: {explained}"
    )
    if outcome != "passed":
        message += reading.remark
    return GateResult(
        name=reading.name,
        limit=reading.limit,
        checkpoint=best.id,
        measured=reading.measured,
        passed=outcome == "passed",
        message=message,
        outcome=outcome,
        subject=reading.subject,
        unit=reading.unit,
        value=increase.value,
        low=low,
        high=high,
        confidence=1 - level,
        p_value=adjusted,
        needed=needed,
    )


def explain_outcome(
    outcome: Outcome,
    *,
    low: float | None,
    limit: float,
    images: int | None,
    needed: int | None,
    replicates: int = 1,
) -> str:
    """Return what the outcome of a test against a limit means, and what would decide it."""
    if outcome == "passed":
        return "proven below it"
    if outcome == "failed":
        if low is not None and low > limit:
            return "proven beyond it"
        return (
            "beyond it by more than noise explains (one-sided at "
            f"{format_confidence(FAIL_CONFIDENCE)})"
        )
    subject = "the images" if images is None else wording.count_of(images, "test image")
    if replicates > 1:
        subject = f"{wording.count_of(replicates, 'replicate')} on {subject}"
    text = f"{subject} cannot tell on which side of it the loss lies"
    if needed is None:
        return text if replicates == 1 else f"{text}; it takes more replicates"
    return (
        f"{text}; about {wording.count(round_up_images(needed))} would, were the loss as measured"
    )


def _report_decided(reading: Reading, best: Checkpoint) -> GateResult:
    """Return a gate that needs no test: what is counted, promised elsewhere, or missing."""
    return GateResult(
        name=reading.name,
        limit=reading.limit,
        checkpoint=best.id,
        measured=reading.measured,
        passed=reading.outcome == "passed",
        message=f"{best.id}: {reading.sentence}",
        outcome=reading.outcome,
        subject=reading.subject,
        unit=reading.unit,
        value=reading.measured.value if reading.measured is not None else None,
        low=reading.low,
        confidence=reading.confidence,
        needed=reading.needed,
    )


def _report_unevaluated(reading: Reading) -> GateResult:
    """Return a gate that was not evaluated: nothing failed it."""
    return GateResult(
        name=reading.name,
        limit=reading.limit,
        checkpoint=None,
        measured=None,
        passed=False,
        message=(
            "not evaluated: no checkpoint is recommended that it could be held against, see the "
            "recommendation for the reason"
        ),
        outcome="undecided",
        subject=reading.subject,
        unit=reading.unit,
    )


def format_confidence(confidence: float) -> str:
    """Return a confidence as people read it.

    >>> format_confidence(0.95), format_confidence(1 - 0.05 / 3)
    ('95 %', '98.33 %')
    """
    return wording.short_percent(round(confidence, 4))
