"""Which checkpoint is recommended, and whether the gates hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pruning.schemas.recipe import Gates
from pruning.schemas.report import Checkpoint, Estimate, Increase, Network, Section
from pruning.verdict.gates import check_gates
from pruning.verdict.recommendation import DEFAULT_MARGIN, References, is_proven_beyond, recommend
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
        "error": around(0.1 + test),
        "val_error": around(0.1 + val),
        "val_error_increase": around(val),
        "error_increase": Increase(given=around(0), control=around(test)),
    }
    return Checkpoint.model_construct(**fields)


def references(control_over_given: float = 0.0) -> References:
    fields: dict[str, Any] = {"error": Estimate(value=0.1, low=0.08, high=0.12, n=100)}
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


def test_a_loss_proven_on_the_test_images_is_no_plain_ship() -> None:
    """The choice stays that of the validation images; the reason says what the test images say."""
    proven, open_ = (
        recommend([checkpoint(0.5, 0.001, test)], Gates(), references()) for test in (0.043, 0.0149)
    )
    assert proven.checkpoint == open_.checkpoint == "magnitude-0.5"
    assert not proven.reason.startswith("Ship")
    assert (
        "Beware: on the test images its error is 14.30 %, 4.30 pp above that of the control "
        "[+3.30, +5.30], beyond the "
        "margin"
    ) in proven.reason
    assert open_.reason.startswith(
        "Ship magnitude-0.5: 50.0 % of the prunable weights are pruned, and on 100 validation "
        "images its error is 0.10 pp above that of the dense control [−0.90, +1.10], within "
        "the margin of 0.50 pp."
    )
    assert "Beware" not in open_.reason
    assert is_proven_beyond(checkpoint(0.5, 0, 0.043), DEFAULT_MARGIN)
    assert not is_proven_beyond(checkpoint(0.5, 0, 0.0149), DEFAULT_MARGIN)


@pytest.mark.parametrize(
    ("val", "half", "n", "margin", "warned"),
    [
        (0.0, 0.01, 10_000, 0.005, True),
        (0.0, 0.004, 10_000, 0.005, False),
        (0.0, 0.001, 100, 0.005, True),  # one image is more than the margin
        (0.0, 0.01, 100, 0.0, False),  # no number of images tells a difference of nothing
        (0.2, 0.01, 100, 0.005, True),  # nothing is recommended
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


def test_of_equally_sparse_ones_the_better_on_val_is_recommended() -> None:
    candidates = [checkpoint(0.5, 0.004, cid="a"), checkpoint(0.5, 0.001, test=0.9, cid="b")]
    assert recommend(candidates, Gates(), references()).checkpoint == "b"


@pytest.mark.parametrize(
    ("test", "gate", "passed"),
    [(0.0, 0.0, True), (0.01, 0.01, True), (0.011, 0.01, False), (-0.1, 0.0, True)],
)
def test_gates_read_the_test_split(test: float, gate: float, passed: bool) -> None:
    gates = Gates(max_error_increase=gate)
    checkpoints = [checkpoint(0.5, 0.0, test=test)]
    (result,) = check_gates(checkpoints, recommend(checkpoints, gates, references()), gates)
    assert (result.passed, result.limit, result.checkpoint) == (passed, gate, "magnitude-0.5")
    assert result.measured == checkpoints[0].error_increase.control
    assert result.message.startswith("magnitude-0.5: test error ")
    assert result.message.endswith(f"] against the dense control, limit {100 * gate:.2f} pp")


def test_a_gate_without_a_recommendation_fails_and_none_is_held_unasked() -> None:
    gates = Gates(max_error_increase=0.01)
    checkpoints = [checkpoint(0.5, 0.5)]
    (result,) = check_gates(checkpoints, recommend(checkpoints, gates, references()), gates)
    assert (result.passed, result.checkpoint, result.measured) == (False, None, None)
    assert check_gates(checkpoints, recommend(checkpoints, Gates(), references()), Gates()) == ()


@pytest.mark.parametrize(
    ("delta", "gate", "passed"), [(0.02, 0.02, True), (0.021, 0.02, False), (-0.1, 0.0, True)]
)
def test_a_gate_on_delta_excess_error_reads_the_robustness_section(
    delta: float, gate: float, passed: bool
) -> None:
    measured = Estimate(value=delta, low=delta - 0.01, high=delta + 0.01, n=100)
    rows = [
        {"checkpoint": name, "delta_excess_error": value.model_dump()}
        for name, value in (("magnitude-0.4", Estimate(value=0.9)), ("magnitude-0.5", measured))
    ]
    section = Section(title="Error under shift", version=1, details={"excess_error": rows})
    checkpoints, gates = (
        [checkpoint(0.4, 0.0), checkpoint(0.5, 0.0)],
        Gates(max_error_increase=0.01, max_delta_excess_error=gate),
    )
    recommendation = recommend(checkpoints, gates, references())
    nominal, shifted = check_gates(checkpoints, recommendation, gates, section)
    assert nominal.passed
    assert (shifted.name, shifted.passed, shifted.measured) == (
        "max_delta_excess_error",
        passed,
        measured,
    )
    assert shifted.message.startswith("magnitude-0.5: excess error under shift ")
    _, missing = check_gates(checkpoints, recommendation, gates)
    assert (missing.passed, missing.message) == (
        False,
        "magnitude-0.5: excess error under shift was not measured",
    )


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
