"""Whether test images prove an error to be at most the tolerated one: exact one-sided tests."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

from scipy.special import bdtr, betaincinv

from pruning import wording
from pruning.family.measurements import ENOUGH_VALIDATION
from pruning.measurement.needed_images import describe_proving_images
from pruning.measurement.paired import adjust_holm
from pruning.schemas.family_report import FamilyAnswer, FamilyGate

CONFIDENCE = 0.95
POWER = 0.8
TEST_CHOSE = (
    "these test images cannot prove it, as the law that chose the network was fitted to the errors "
    "on them"
)
MOST_IMAGES = 10**9
"""More images than this are told as none: no dataset decides."""


def p_value_at_most(error: float, images: int, limit: float) -> float:
    """The p-value against "the error is above `limit`": P(X <= wrong), X binomial of `images`
    trials at `limit`.

    Errors of an image between 0 and 1, as of segmentation, have a smaller variance than that.

    >>> round(p_value_at_most(0.08, 1000, 0.1), 4)
    0.0176
    """
    return float(bdtr(round(error * images), images, limit))


def limit_error(error: float, images: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The lower and the upper limit of an error, each one-sided, by Clopper and Pearson.

    >>> [round(limit, 4) for limit in limit_error(0.1, 1000)]
    [0.0848, 0.117]
    """
    wrong = round(error * images)
    low = 0.0 if wrong == 0 else float(betaincinv(wrong, images - wrong + 1, 1 - confidence))
    high = 1.0
    if wrong < images:
        high = float(betaincinv(wrong + 1, images - wrong, confidence))
    return low, high


def judge_answers(answers: Sequence[FamilyAnswer]) -> tuple[FamilyAnswer, ...]:
    """Judge the measured answers together: `passed` where the test images prove an error of at most
    the tolerated one, with Holm's adjustment, `failed` where it measured above it, else
    `undecided`. Test images that had a part in the choice of the network prove nothing of it.
    """
    measured = [answer for answer in answers if answer.measured is not None]
    p_values = adjust_holm(
        [
            p_value_at_most(answer.measured.value, answer.measured.n or 1, answer.max_error)
            for answer in measured
            if answer.measured is not None
        ]
    )
    adjusted = {answer.max_error: p for answer, p in zip(measured, p_values, strict=True)}
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(measured))
    return tuple(
        _judge_answer(answer, adjusted.get(answer.max_error, 1.0), confidence) for answer in answers
    )


def _judge_answer(answer: FamilyAnswer, p_value: float, confidence: float) -> FamilyAnswer:
    """Judge an answer by its adjusted p-value; `confidence` is what proves it with all others."""
    if answer.measured is None:
        return answer
    error = answer.measured.value
    if error > answer.max_error:
        return answer.model_copy(update={"outcome": "failed"})
    if p_value <= 1 - CONFIDENCE and answer.chosen_on != "test":
        return answer.model_copy(update={"outcome": "passed"})
    needed = count_needed_images(error, answer.max_error, confidence)
    return answer.model_copy(update={"outcome": "undecided", "needed": needed})


def build_gates(answers: Sequence[FamilyAnswer]) -> tuple[FamilyGate, ...]:
    """Build a gate for each answer that has an outcome, has none though it was trained, or was
    refused; one that is not trained, as the spec asks or without need, has none.
    """
    return tuple(
        _build_gate(answer) for answer in answers if answer.refused or answer.job is not None
    )


def _build_gate(answer: FamilyAnswer) -> FamilyGate:
    tolerated = wording.percent(answer.max_error, 2)
    if answer.refused:
        return FamilyGate(
            outcome="failed", passed=False, limit=answer.max_error, message=answer.refused
        )
    if answer.measured is None or answer.outcome is None:
        return FamilyGate(
            outcome="undecided",
            passed=False,
            limit=answer.max_error,
            job=answer.job,
            message=f"{tolerated} tolerated; nothing measured yet: job {answer.status}",
        )
    low: float | None
    high: float | None
    low, high = limit_error(answer.measured.value, answer.measured.n or 1)
    text = f"{wording.percent(answer.measured.value, 2)} measured, {tolerated} tolerated"
    if answer.outcome == "passed":
        text += f"; at most {wording.percent_at_most(high, 2)} at one-sided 95 %"
    elif answer.outcome == "undecided" and answer.chosen_on == "test":
        text += f"; {TEST_CHOSE}{describe_deciding(answer)}"
    elif answer.outcome == "undecided":
        text += f"; {_describe_open(high, answer.max_error)}"
        if answer.needed is not None:
            text += f", {describe_proving_images(answer.needed)}"
    if answer.chosen_on == "test":
        low = high = None
    return FamilyGate(
        outcome=answer.outcome,
        passed=answer.outcome == "passed",
        limit=answer.max_error,
        value=answer.measured.value,
        low=low,
        high=high,
        needed=answer.needed,
        job=answer.job,
        checkpoint=answer.checkpoint,
        message=f"{text}.",
    )


def describe_deciding(answer: FamilyAnswer) -> str:
    """The evidence that would decide on a network in whose choice the test images had a part."""
    others = (
        "" if answer.needed is None else f": {describe_proving_images(answer.needed, 'others')}"
    )
    return (
        f"{others}. Members with {ENOUGH_VALIDATION} validation images each would leave the test "
        "images out of the choice"
    )


def _describe_open(high: float, tolerated: float) -> str:
    """The upper limit of an error that is not proven, which is at most the tolerated
    error where several are tested together and it would have been proven alone.
    """
    limit = wording.percent_at_most(high, 2)
    if high > tolerated:
        return f"up to {limit} is possible at one-sided 95 %"
    return (
        f"at most {limit} at one-sided 95 % by itself, which does not prove all tolerated errors "
        "together"
    )


def count_needed_images(error: float, limit: float, confidence: float = CONFIDENCE) -> int | None:
    """The number of test images in all that would prove such an error to be at most the limit,
    with a probability of 80 %; None where none would.

    n = ((z_confidence sqrt(limit (1 - limit)) + z_0.8 sqrt(error (1 - error)))
    / (limit - error))^2.

    >>> count_needed_images(0.09, 0.1)
    5393
    """
    if error >= limit:
        return None
    normal = NormalDist()
    z_confidence, z_power = normal.inv_cdf(confidence), normal.inv_cdf(POWER)
    spread = z_confidence * (limit * (1 - limit)) ** 0.5 + z_power * (error * (1 - error)) ** 0.5
    needed = (spread / (limit - error)) ** 2
    return None if needed > MOST_IMAGES else int(-(-needed // 1))
