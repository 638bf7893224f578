"""Findings about distances: the claim that fine-tuning recovers accuracy, and rank correlations."""

from __future__ import annotations

import pytest

from pruning.analysis.distance_findings import (
    HIDDEN,
    Change,
    check_recovery_claim,
    correlate_with_accuracy,
)
from pruning.schemas.report import Estimate


def around(value: float, half: float = 0.01) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half)


@pytest.mark.parametrize(
    ("errors", "held", "rest"),
    [
        ([0.2, 0.1, 0.3], "At 3 of these 3 ... more at 3 ... at 0)", "fell by more at 0"),
        ([0.2, 0.0, 0.3], "At 3 of these 3 ... more at 2 ... at 1)", "fell by more at 0"),
        ([-0.02, 0.02, 0.0], "At 3 of these 3 ... more at 0 ... at 3)", "fell by more at 0"),
        ([-0.2, -0.1, -0.3], "At 0 of these 3 ... more at 0 ... at 0)", "fell by more at 3"),
        (
            [-0.2, 0.1, None],
            "At 1 of these 3 ... more at 1 ... at 0)",
            "at 1, against the claim; 1 off the scale",
        ),
        (
            [0.05, -0.05, -0.045],
            "At 0 of these 3 ... more at 0 ... at 0)",
            "against the claim; 3 undecided",
        ),
    ],
)
def test_the_claim_is_told_by_counts(errors: list[float | None], held: str, rest: str) -> None:
    changes = [
        Change(
            f"c{i}",
            around(0.1 * (i + 1)),
            {HIDDEN: None if value is None else around(value), "logits": around(-1)},
            0.5,
        )
        for i, value in enumerate(errors)
    ]
    changes.append(Change("worse", around(-0.1), {HIDDEN: around(1), "logits": around(1)}))
    note, others = check_recovery_claim(changes)
    assert "Retraining recovered accuracy by +20.0 pp at 3 of 4 checkpoints" in note
    for part in held.split(" ... "):
        assert part in note
    assert rest in note
    assert "yes" not in note
    assert (
        others == "At the same checkpoints the distance of the outputs, beyond noise: logits fell "
        "at all 3 of these."
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_the_margin_is_as_wide_for_a_rise_as_for_a_fall(sign: int) -> None:
    def move(value: float, half: float = 0.001) -> str:
        change = Change("a", around(0.1), {HIDDEN: around(sign * value, half)}, 0.5)
        return change.movement

    beyond = "rose" if sign > 0 else "fell"
    assert [move(value) for value in (0.0, 0.045, 0.05, 0.055)] == [
        "unchanged",
        "unchanged",
        "undecided",
        beyond,
    ]
    assert move(0.0, 0.06) == "undecided"


def test_without_recovery_there_is_no_claim_to_see() -> None:
    (note,) = check_recovery_claim([Change("a", around(0.001), {HIDDEN: around(1)})])
    assert "no evidence: retraining recovered accuracy beyond noise at none of 1 checkpoint" in note


@pytest.mark.parametrize(
    ("pairs", "verdict"),
    [
        ([(0.1, 0.9)] * 3, "no evidence: too few checkpoints (3, at least 4 are needed)"),
        ([(0.1, 0.9)] * 6, "no evidence: a ranking is constant"),
        ([(1, 1), (2, 2), (3, 3), (4, 4)], "no evidence: 8 % of random orders are as good"),
        ([(1, 1), (2, 5), (3, 2), (4, 4), (5, 0), (6, 3)], "no evidence of an order"),
        ([(i, i) for i in range(8)], "further from the dense network went with higher accuracy"),
        ([(i, -i) for i in range(8)], "further from the dense network went with lower accuracy"),
    ],
)
def test_correlations_say_when_they_are_no_evidence(
    pairs: list[tuple[float, float]], verdict: str
) -> None:
    assert correlate_with_accuracy(0, "before", "logits", "logits", pairs).verdict == verdict
