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
    ("errors", "outcome", "moved"),
    [
        (
            [0.2, 0.1, 0.3],
            "yes",
            "rose at all 3 of these (median change +0.2, +40 % of it; a fall by less than 10 % "
            "counts as",
        ),
        ([0.2, 0.0, 0.3], "yes", "rose at 2 and fell at 0 of these 3, 1 within noise"),
        ([-0.02, -0.03, -0.04], "yes", "fell at all 3 of these (median change −0.03, −6 % of it"),
        (
            [-0.02, -0.03, -0.05],
            "at some checkpoints, not at others",
            "fell at all 3 of these (median change −0.03",
        ),
        ([-0.2, -0.1, -0.3], "no, the opposite", "fell at all 3 of these"),
        (
            [-0.2, 0.1, None],
            "at some checkpoints, not at others",
            "rose at 1 and fell at 1 of these 3, 1 off the scale",
        ),
        (
            [0.0, 0.001, 0.0],
            "no evidence either way",
            "rose at 0 and fell at 0 of these 3, 3 within noise",
        ),
    ],
)
def test_the_claim_is_told_as_it_was_seen(
    errors: list[float | None], outcome: str, moved: str
) -> None:
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
    assert (
        f"Seen here: {outcome}. Retraining recovered accuracy by +20.0 pp at 3 of 4 checkpoints"
        in note
    )
    assert moved in note
    assert (
        others == "At the same checkpoints the distance of the outputs, beyond noise: logits fell "
        "at all 3 of these."
    )


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
