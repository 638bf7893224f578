"""Gates and costs in a rendered report."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

from pruning.reporting import summary, to_html, to_junit, to_markdown
from pruning.reporting.gates import describe_limit, describe_measured
from pruning.schemas.report import (
    ControlNetwork,
    Estimate,
    GateResult,
)
from pruning.schemas.verdicts import Outcome
from tests.support import reports


def gate(outcome: Outcome, **changes: Any) -> GateResult:
    """A gate with this outcome."""
    fields: dict[str, Any] = {
        "name": "max_error_increase",
        "limit": 0.001,
        "checkpoint": "magnitude-0.8",
        "measured": reports.difference(0.003),
        "passed": outcome == "passed",
        "outcome": outcome,
        "message": "0.3 points above, 0.1 allowed",
    }
    return GateResult(**fields | changes)


def test_failed_gate_is_the_headline() -> None:
    failed = reports.realistic().recommendation.model_copy(update={"verdict": "do_not_ship"})
    report = reports.realistic(gates=(gate("failed"),), recommendation=failed)
    assert "do not ship 80 % sparsity, a gate failed" in to_html(report)
    assert "❌ failed" in to_markdown(report)


def test_the_three_outcomes_of_gates_are_shown_everywhere() -> None:
    gates = (
        gate("passed", name="max_flops", limit=2e6, unit="number", measured=Estimate(value=1e6)),
        gate("failed"),
        gate("undecided", name="min_prune_potential", subject="fog 3", limit=0.5, needed=5355),
    )
    report = reports.realistic(gates=gates)
    page, comment = to_html(report), to_markdown(report)
    for text in (page, comment.replace("\\", "")):
        assert "1 passed, 1 failed, 1 undecided" in text
        assert "max_flops ≤ 2.00 MFLOP" in text
        assert "min_prune_potential (fog 3) ≥ 50.0 %" in text
    assert "? undecided" in page
    assert "⚠️ undecided" in comment
    assert "5,400" in comment
    suite = ET.fromstring(to_junit(report))
    (skipped,) = suite.findall("testcase/skipped")
    assert (skipped.attrib["type"], skipped.attrib["message"]) == (
        "undecided",
        "0.3 points above, 0.1 allowed",
    )
    assert suite.attrib["skipped"] == "1"
    assert len(suite.findall("testcase/failure")) == 1


def test_gates_without_a_checkpoint_are_not_evaluated_and_stop_a_pipeline() -> None:
    choice = reports.realistic().recommendation
    none = choice.model_copy(update={"checkpoint": None, "verdict": "do_not_ship"})
    held = gate("undecided", checkpoint=None, measured=None)
    report = reports.realistic(gates=(held,), recommendation=none)
    assert describe_measured(held) == "not evaluated"
    assert summary.describe_verdict(report).tone == "bad"
    suite = ET.fromstring(to_junit(report))
    (failure,) = suite.findall("testcase/failure")
    assert (failure.attrib["type"], failure.attrib["message"]) == ("do_not_ship", choice.reason)
    exact = gate("failed", limit=0.00333)
    assert describe_limit(exact) == "max_error_increase ≤ 0.333 pp"
    open_ = none.model_copy(update={"verdict": "undecided"})
    suite = ET.fromstring(to_junit(reports.realistic(gates=(held,), recommendation=open_)))
    assert suite.attrib["failures"] == "0"
    assert suite.attrib["skipped"] == "2"


def test_costs_that_were_measured_of_one_control_are_not_printed_as_another_s() -> None:
    control = reports.network(0.071).model_dump()
    controls = (
        ControlNetwork(**control, retrainings=1),
        ControlNetwork(**control, name="control-3", retrainings=3, costs_of="control"),
    )
    report = reports.realistic(controls=controls)
    for text in (to_html(report), to_markdown(report)):
        assert "compared with the control that was retrained as often as it" in text
    alone = reports.realistic(controls=controls[:1])
    for text in (to_html(alone), to_markdown(alone)):
        assert "control: the dense network retrained as in one round" in text
        assert "not the spread between training runs" in text
    (row,) = [line for line in to_markdown(report).splitlines() if "as control" in line]
    assert row.startswith("| control-3 |")
    assert "MFLOP" not in row
    assert to_html(report).count("as control") == row.count("as control") > 3


def test_compression_says_what_it_counts_and_the_margin_is_told_from_the_loss() -> None:
    report = reports.realistic()
    best = report.checkpoints[1]
    close = best.error_increase.model_copy(
        update={"control": Estimate(value=0.01003, low=0.0, high=0.02)}
    )
    changed = [*report.checkpoints]
    changed[1] = best.model_copy(update={"error_increase": close})
    report = reports.realistic(checkpoints=tuple(changed))
    page, comment = to_html(report), to_markdown(report)
    assert "Compression of prunable weights" in page
    assert "Compression of prunable weights" in comment
    (fact,) = [f for f in summary.describe_verdict(report).facts if f.label == "Over dense control"]
    assert fact.value == "+1.003 pp"


def test_the_fact_of_the_gates_names_those_that_did_not_pass() -> None:
    message = "magnitude-0.8: 1,797 test images cannot tell on which side of it the loss lies"
    (passed,) = reports.realistic().gates
    missed = passed.model_copy(
        update={
            "name": "max_class_increase",
            "subject": "4",
            "passed": False,
            "outcome": "undecided",
            "message": message,
        }
    )
    report = reports.realistic(gates=(passed, missed))
    (fact,) = [fact for fact in summary.describe_verdict(report).facts if fact.label == "Gates"]
    assert (fact.value, fact.detail) == ("1 passed, 1 undecided", "max_class_increase (4)")
    assert to_html(report).count(message) == to_markdown(report).count(message) == 1


def test_a_ratio_of_times_is_not_called_noise_where_its_interval_excludes_one() -> None:
    comment = to_markdown(reports.realistic())
    assert "is noise" not in comment
    assert "not from the zeros, also where its interval excludes 1" in comment
    assert "covers the passes that were timed, not other machines" in comment
