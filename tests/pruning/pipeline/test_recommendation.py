"""Which checkpoint is chosen on the validation images, and the verdict of whole jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pruning.schemas.gates import Gates
from pruning.schemas.report import Checkpoint, Estimate, Increase, Latency, Network, Recommendation
from pruning.schemas.targets import RequestedIncrease
from pruning.verdict.recommendation import DEFAULT_MARGIN, References, recommend
from tests.support import cases
from tests.support.finished_jobs import finish_and_export as finished


def checkpoint(
    sparsity: float, val: float, test: float = 0.0, cid: str | None = None
) -> Checkpoint:
    def around(value: float) -> Estimate:
        return Estimate(value=value, low=value - 0.01, high=value + 0.01, n=100)

    fields: dict[str, Any] = {
        "id": cid or f"magnitude-{sparsity}",
        "sparsity": sparsity,
        "requested_sparsity": round(sparsity, 2),
        "size_bytes": {"sparse": 1000, "dense": 1000},
        "parameters": 100,
        "latency_ms": (),
        "error": around(0.1 + test),
        "val_error": around(0.1 + val),
        "val_error_increase": around(val),
        "error_increase": Increase(given=around(0), control=around(test)),
    }
    return Checkpoint.model_construct(**fields)


def references(control_over_given: float = 0.0) -> References:
    fields: dict[str, Any] = {
        "error": Estimate(value=0.1, low=0.08, high=0.12, n=100),
        "size_bytes": {"sparse": 4000, "dense": 4000},
        "parameters": 200,
    }
    network = Network.model_construct(**fields)
    gap = Estimate(
        value=control_over_given,
        low=control_over_given - 0.01,
        high=control_over_given + 0.01,
        n=100,
    )
    return References(network, network, gap)


@pytest.mark.parametrize(
    ("checkpoints", "gate", "chosen"),
    [
        ([], None, None),
        ([(0.5, 0.0), (0.9, DEFAULT_MARGIN)], None, 0.9),
        ([(0.5, 0.0), (0.9, DEFAULT_MARGIN + 1e-6)], None, 0.5),
        ([(0.5, 0.02), (0.9, -0.02)], None, 0.9),  # a sparser one may be better again
        ([(0.5, 0.01), (0.9, 0.02)], None, None),
        ([(0.5, 0.01), (0.9, 0.02)], 0.01, 0.5),
        ([(0.5, 0.01), (0.9, 0.02)], 0.5, 0.9),
        ([(0.5, 0.0), (0.9, 0.001)], 0.0, 0.5),
        ([(0.5, -0.001)], 0.0, 0.5),
    ],
)
def test_the_sparsest_within_the_margin_is_recommended(
    checkpoints: list[tuple[float, float]], gate: float | None, chosen: float | None
) -> None:
    candidates = [checkpoint(sparsity, val, test=0.3) for sparsity, val in checkpoints]
    recommendation = recommend(candidates, Gates(max_error_increase=gate), references())
    assert recommendation.sparsity == chosen
    assert recommendation.checkpoint == (f"magnitude-{chosen}" if chosen else None)
    assert recommendation.margin == (DEFAULT_MARGIN if gate is None else gate)
    assert recommendation.reason


def test_the_margin_is_the_largest_limit_that_was_asked_for_unless_a_gate_sets_one() -> None:
    candidates = [
        checkpoint(sparsity, val, test=0.3).model_copy(
            update={
                "requested": RequestedIncrease(
                    quantity="max_error_increase",
                    value=limit,
                    reached=val,
                    removal=sparsity,
                    next_sparsity=None,
                    tried=5,
                )
            }
        )
        for sparsity, val, limit in ((0.5, 0.01, 0.01), (0.9, 0.02, 0.02))
    ]
    made = recommend(candidates, Gates(), references())
    assert (made.sparsity, made.margin) == (0.9, 0.02)
    made = recommend(candidates, Gates(max_error_increase=0.01), references())
    assert (made.sparsity, made.margin) == (0.5, 0.01)


def test_a_network_that_guesses_is_not_recommended() -> None:
    """Where retraining destroys the control too, being as bad as the control is no reason to
    ship.
    """
    candidate = checkpoint(0.5, 0.75)
    gates = Gates(max_error_increase=1.0)
    assert recommend([candidate], gates, references()).checkpoint == "magnitude-0.5"
    guessing = candidate.model_copy(update={"guesses": True})
    assert recommend([guessing], gates, references()).checkpoint is None


def test_retraining_that_harms_the_dense_network_is_said() -> None:
    candidates = [checkpoint(0.5, 0.0)]
    assert "Beware" in recommend(candidates, Gates(), references(control_over_given=0.02)).reason
    assert (
        "Beware" not in recommend(candidates, Gates(), references(control_over_given=0.005)).reason
    )


def test_the_choice_says_what_decided_it() -> None:
    made = recommend([checkpoint(0.5, 0.001, 0.3)], Gates(), references())
    assert made.reason.startswith(
        "magnitude-0.5 was chosen on 100 validation images, where its error is 0.10 pp above that "
        "of the dense control [−0.90, +1.10], within the recommendation's margin of 0.50 pp; "
        "50.0 % of the prunable weights are pruned."
    )
    assert "Ship" not in made.reason, "the test images have not been asked"
    assert "Intervals are at 95 % where no other level is named" in made.reason
    assert "nothing here speaks" not in made.reason, "gates beside it may be on shifted images"
    equal = recommend([checkpoint(0.5, 0.0, 0.3)], Gates(), references()).reason
    assert "its error is equal to that of the dense control [−1.00, +1.00] pp, within" in equal


@pytest.mark.parametrize(
    ("val", "half", "n", "margin", "warned"),
    [
        (0.0, 0.01, 10_000, 0.005, True),
        (0.0, 0.004, 10_000, 0.005, False),
        (0.0, 0.001, 100, 0.005, True),  # one image is more than the margin
        (0.0, 0.01, 100, 0.0, False),  # no number of images tells a difference of nothing
    ],
)
def test_too_few_validation_images_for_the_margin_are_said(
    val: float, half: float, n: int, margin: float, warned: bool
) -> None:
    gap = Estimate(value=val, low=val - half, high=val + half, n=n)
    candidate = checkpoint(0.5, val).model_copy(update={"val_error_increase": gap})
    reason = recommend([candidate], Gates(max_error_increase=margin), references()).reason
    assert (
        f"{n:,} validation images cannot tell a difference of {100 * margin:.2f} pp." in reason
    ) is warned


def test_candidates_are_compared_by_target_then_by_validation_error() -> None:
    """Realised sparsities differ by rounding: .8001 with 36 % error is no sparser than .8 with 8 %,
    where both are within a wide margin.
    """
    rough = checkpoint(0.8001, 0.26, cid="filter_norm-0.8")
    fine = checkpoint(0.8, -0.02, cid="magnitude-0.8")
    for candidates in ([rough, fine], [fine, rough]):
        made = recommend(candidates, Gates(max_error_increase=0.5), references())
        assert made.checkpoint == "magnitude-0.8"
    candidates = [checkpoint(0.5, 0.004, cid="a"), checkpoint(0.5, 0.001, test=0.9, cid="b")]
    assert recommend(candidates, Gates(), references()).checkpoint == "b"


def test_ties_are_broken_by_latency_and_then_by_size() -> None:
    def timed(cid: str, ratio: float | None, size: int) -> Checkpoint:
        latency = Latency(device="cpu", threads=1, batch=1, p50=1.0, p95=1.0, against_given=ratio)
        update = {"latency_ms": (latency,), "size_bytes": {"sparse": size, "dense": 4000}}
        return checkpoint(0.5, 0.0, cid=cid).model_copy(update=update)

    slow, fast = timed("slow", 1.0, 10), timed("fast", 0.5, 99)
    small, unknown = timed("small", 0.5, 98), timed("unknown", None, 1)
    for candidates, best in (
        ([slow, fast], "fast"),
        ([fast, small, slow], "small"),
        ([unknown, slow], "slow"),
    ):
        assert recommend(candidates, Gates(), references()).checkpoint == best


def test_what_removed_channels_gain_in_latency_is_said() -> None:
    latency = Latency(device="cpu", threads=1, batch=1, p50=1.0, p95=1.0, against_given=0.41)
    cut = checkpoint(0.5, 0.2, cid="filter_norm-0.5")
    cut = cut.model_copy(update={"latency_ms": (latency,)})
    whole = checkpoint(0.5, 0.0).model_copy(update={"size_bytes": {"sparse": 1000, "dense": 4000}})
    sentence = "filter_norm-0.5, whose channels were removed, takes 0.41× the time of the network"
    reason = recommend([cut, whole], Gates(), references()).reason
    assert f"{sentence} as given, with a validation error of 30.0 %." in reason
    assert "Ratios of times are the largest over the batch sizes that were timed." in reason
    alone = recommend([cut], Gates(max_error_increase=0.5), references()).reason
    assert f"{sentence} as given." in alone
    assert "channels" not in recommend([whole], Gates(), references()).reason


def test_no_checkpoint_within_the_margin_is_undecided_where_the_images_cannot_tell() -> None:
    def recommend_at(val: float, n: int) -> Recommendation:
        gap = Estimate(value=val, low=val - 0.02, high=val + 0.02, n=n)
        candidate = checkpoint(0.5, val).model_copy(update={"val_error_increase": gap})
        return recommend([candidate], Gates(), references())

    near, far = recommend_at(0.006, 100), recommend_at(0.06, 100)
    assert (near.checkpoint, near.verdict) == (None, "undecided")
    (needed,) = near.needed
    assert (needed.what, needed.images, needed.at_hand) == ("margin", "validation", 100)
    assert needed.needed > 100
    assert "100 validation images cannot tell that" in near.reason
    assert (far.checkpoint, far.verdict, far.needed) == (None, "do_not_ship", ())
    assert recommend([], Gates(), references()).verdict == "do_not_ship"


def test_a_job_is_held_against_its_delta_excess_error(tmp_path: Path) -> None:
    recipe = cases.recipe(
        0.3,
        evaluations=({"name": "robustness", "params": {"corruptions": ["fog"]}},),
        gates=Gates(max_error_increase=1.0, max_delta_excess_error=1.0),
    )
    results, _ = finished(recipe, tmp_path)
    report = results.report(*results.evaluate())
    (row,) = report.sections["robustness"].details["excess_error"]
    assert report.recommendation.checkpoint is None or report.gates[
        1
    ].measured == Estimate.model_validate(row["delta_excess_error"])
    assert [gate.name for gate in report.gates] == ["max_error_increase", "max_delta_excess_error"]


def test_a_partial_report_holds_no_gate_that_waits_for_an_evaluation(tmp_path: Path) -> None:
    gates = Gates(max_error_increase=1.0, max_delta_excess_error=1.0)
    results, _ = finished(
        cases.recipe(0.3, gates=gates, evaluations=({"name": "robustness"},)), tmp_path
    )
    assert [gate.name for gate in results.report(partial=True).gates] == ["max_error_increase"]
