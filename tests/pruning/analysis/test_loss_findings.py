"""The paper's findings about loss models, from rounds with chosen losses."""

from __future__ import annotations

from typing import Any

import pytest

from pruning.analysis.job_record import RoundRecord
from pruning.analysis.loss_findings import (
    ANSWERS,
    compare_gradient,
    compare_locality,
    compare_with_magnitude,
)
from pruning.evaluations.loss_model import LossModelling
from tests.support.loss_rounds import find_note, make_record, make_round


def pair(
    name: str,
    differing: dict[str, Any],
    shared: dict[str, Any] | None = None,
    target: float = 0.8,
    **fields: Any,
) -> RoundRecord:
    label = "-".join([name, *(f"{key}{value}" for key, value in differing.items())])
    return make_round(label, target, name=name, params=differing | (shared or {}), **fields)


def test_locality_is_seen_not_seen_or_without_evidence() -> None:
    def outcome(shift: float, parameter: str = "pi") -> str:
        few, more = (
            pair("qm", {parameter: 1}, after=1.0),
            pair("qm", {parameter: 14}, after=1.0 + shift),
        )
        (finding,) = compare_locality([more, few])
        (only,) = finding.pairs
        assert only.first.criterion.params == {parameter: 14}
        assert only.change.estimate is not None
        assert only.change.estimate.value == pytest.approx(shift, abs=1e-6)
        sentence = finding.sentence()
        assert sentence.startswith("Paper's finding: qm: ")
        assert f"Seen here: {ANSWERS[finding.outcome]}. Of 1 comparison, " in sentence
        return finding.outcome

    assert outcome(-0.3) == "seen"
    assert outcome(0.3) == "the opposite"
    assert outcome(0.0) == "no evidence"
    assert outcome(-0.3, "lambda") == "seen"


def test_only_pairs_that_differ_in_one_parameter_are_compared() -> None:
    both = [pair("qm", {"pi": 1, "lambda": 0.0}), pair("qm", {"pi": 14, "lambda": 0.1})]
    assert compare_locality(both) == []
    assert compare_locality([pair("qm", {"pi": 1}), pair("lm", {"pi": 14})]) == []
    assert compare_locality([pair("qm", {"pi": 1}), pair("qm", {"pi": 14}, target=0.9)]) == []
    assert compare_locality([pair("qm", {"images": 10}), pair("qm", {"images": 20})]) == []
    assert compare_locality([pair("magnitude", {}), make_round("random")]) == []
    defaults = [pair("qm", {}), pair("qm", {"pi": 1})]  # the default pi is 14
    (finding,) = compare_locality(defaults)
    assert finding.pairs[0].first.label == "qm"
    three = compare_locality([pair("qm", {"pi": pi}) for pi in (1, 14, 140)])
    assert [len(finding.pairs) for finding in three] == [3]


def test_both_directions_are_said() -> None:
    rounds = [
        pair("lm", {"pi": 1}, target=0.5, after=1.0),
        pair("lm", {"pi": 14}, target=0.5, after=1.2),
        pair("lm", {"pi": 1}, after=1.0),
        pair("lm", {"pi": 14}, after=0.3),
    ]
    (finding,) = compare_locality(rounds)
    assert finding.outcome == "both"
    assert "the opposite at others. Of 2 comparisons, 1 for and 1 against" in finding.sentence()
    assert "largest difference: lm-pi14 less lm-pi1 at 80 %, −0.7" in finding.sentence()


def test_magnitude_and_the_gradient() -> None:
    rounds = [
        make_round("magnitude", after=1.0),
        pair("qm", {"pi": 1}, after=0.6),
        pair("obd", {"pi": 1}, after=0.9),
        pair("obd", {"pi": 14}, after=0.2),
    ]
    outcomes = {row.statement: row for row in compare_with_magnitude(rounds)}
    assert [row.outcome for row in outcomes.values()] == ["seen"] * 3
    (finding,) = compare_gradient(rounds)
    assert [(row.first.label, row.second.label) for row in finding.pairs] == [("qm-pi1", "obd-pi1")]
    assert finding.outcome == "seen"
    section = LossModelling().evaluate(make_record(*rounds))
    assert set(section.details) >= {"locality", "against_magnitude", "gradient"}
    assert "Seen here: yes. Of 1 comparison, 1 for and 0 against" in find_note(
        section, "dropping the gradient"
    )
    assert "with qm-pi1 lower at 1 and higher at 0 of 1 target; with obd-pi1 lower" in find_note(
        section, "magnitude's"
    )
    assert "of twenty" in find_note(section, "stands at 95 %")
    row = section.details["gradient"][0]
    assert row["loss_difference_first_less_second"]["value"] == pytest.approx(-0.3, abs=1e-6)
