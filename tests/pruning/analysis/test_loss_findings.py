"""The paper's findings about loss models, from rounds with chosen losses."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pruning.analysis.job_record import RoundRecord
from pruning.analysis.loss_changes import compare_draws
from pruning.analysis.loss_findings import (
    ANSWERS,
    Pair,
    compare_gradient,
    compare_locality,
    compare_with_magnitude,
)
from pruning.analysis.repeated_prunings import RepeatedPrunings
from pruning.evaluations.loss_model import LossModelling
from tests.support import cases
from tests.support.finished_records import finish_job
from tests.support.finished_records import make_record as make_finished
from tests.support.loss_rounds import find_note, make_record, make_round


def draw_alike(row: RoundRecord) -> Tensor:
    """The losses of a round under draws that make hardly a difference."""
    return row.losses()[1] + 1e-4 * torch.arange(5.0)[:, None]


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
        (finding,) = compare_locality([more, few], draw_alike)
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
    assert compare_locality(both, draw_alike) == []
    assert compare_locality([pair("qm", {"pi": 1}), pair("lm", {"pi": 14})], draw_alike) == []
    assert (
        compare_locality([pair("qm", {"pi": 1}), pair("qm", {"pi": 14}, target=0.9)], draw_alike)
        == []
    )
    assert (
        compare_locality([pair("qm", {"images": 10}), pair("qm", {"images": 20})], draw_alike) == []
    )
    assert compare_locality([pair("magnitude", {}), make_round("random")], draw_alike) == []
    defaults = [pair("qm", {}), pair("qm", {"pi": 1})]  # the default pi is 14
    (finding,) = compare_locality(defaults, draw_alike)
    assert finding.pairs[0].first.label == "qm"
    three = compare_locality([pair("qm", {"pi": pi}) for pi in (1, 14, 140)], draw_alike)
    assert [len(finding.pairs) for finding in three] == [3]


def test_both_directions_are_said() -> None:
    rounds = [
        pair("lm", {"pi": 1}, target=0.5, after=1.0),
        pair("lm", {"pi": 14}, target=0.5, after=1.2),
        pair("lm", {"pi": 1}, after=1.0),
        pair("lm", {"pi": 14}, after=0.3),
    ]
    (finding,) = compare_locality(rounds, draw_alike)
    assert finding.outcome == "both"
    assert "the opposite at others. Of 2 comparisons, 1 for and 1 against" in finding.sentence()
    assert "largest difference: lm-pi14 less lm-pi1 at 80 %, −0.7" in finding.sentence()


def test_magnitude_and_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RepeatedPrunings, "losses", lambda self, row: draw_alike(row))
    rounds = [
        make_round("magnitude", after=1.0),
        pair("qm", {"pi": 1}, after=0.6),
        pair("obd", {"pi": 1}, after=0.9),
        pair("obd", {"pi": 14}, after=0.2),
    ]
    outcomes = {row.statement: row for row in compare_with_magnitude(rounds, draw_alike)}
    assert [row.outcome for row in outcomes.values()] == ["seen"] * 3
    (finding,) = compare_gradient(rounds, draw_alike)
    assert [(row.first.label, row.second.label) for row in finding.pairs] == [("qm-pi1", "obd-pi1")]
    assert finding.outcome == "seen"
    section = LossModelling().evaluate(make_record(*rounds))
    assert set(section.details) >= {"locality", "against_magnitude", "gradient"}
    assert "Seen here: yes. Of 1 comparison, 1 for and 0 against" in find_note(
        section, "dropping the gradient"
    )
    assert "with qm-pi1 lower at 1 and higher at 0 of 1 target tested; with obd-pi1" in find_note(
        section, "magnitude's"
    )
    note = find_note(section, "hold together at 95 %")
    assert "over 5 draws" in note
    assert "each is tested at 1 %, which allows for 5" in note
    row = section.details["gradient"][0]
    assert row["loss_difference_first_less_second"]["value"] == pytest.approx(-0.3, abs=1e-6)


def test_a_round_that_goes_on_from_another_is_not_tested(tmp_path: Path) -> None:
    criteria = [{"name": "magnitude"}, {"name": "lm", "params": {"images": 10, "pi": 2}}]
    recipe = cases.recipe(0.5, 0.8, criterion=criteria, evaluations=({"name": "loss_model"},))
    section = LossModelling().evaluate(make_finished(finish_job(recipe, tmp_path)))
    rows = section.details["against_magnitude"]
    assert [row["target_sparsity"] for row in rows] == [0.5, 0.8]
    assert rows[0]["finding"] in ("seen", "the opposite", "no evidence")
    assert rows[1]["finding"] == "not tested"
    assert "each is tested at 2.5 %, which allows for 2" in find_note(section, "hold together")
    assert "Not tested: 1 comparison of rounds" in find_note(section, "Not tested")


def test_prunings_are_repeated_under_other_draws(tmp_path: Path) -> None:
    criteria = [{"name": "magnitude"}, {"name": "lm", "params": {"images": 10, "pi": 1}}]
    results = finish_job(cases.recipe(0.8, criterion=criteria), tmp_path)
    record = make_finished(results)
    repeated = RepeatedPrunings(record, draws=4)
    by_data, without_data = (
        repeated.losses(row) for row in sorted(record.rounds, key=lambda row: row.label)
    )
    assert by_data is not None
    assert without_data is not None
    assert by_data.shape == without_data.shape == (4, 40)
    assert bool((without_data == without_data[0]).all())
    assert len(by_data.mean(1).unique()) == 4
    assert RepeatedPrunings(record, draws=1).losses(record.rounds[0]) is None


@pytest.mark.slow
def test_equal_settings_are_not_called_different_by_their_draws() -> None:
    """Ten equal settings, each with draws of its own whose effect goes with the image's loss."""
    jobs, settings, draws, images = 25, 10, 5, 500
    rng = torch.Generator().manual_seed(0)
    false_jobs = called_different = seen = 0
    template = make_round("a")
    for _ in range(jobs):
        image = torch.randn(images, generator=rng).mul(1.5).exp()
        effect = 0.2 * torch.randn(settings, draws, 1, generator=rng)
        noise = 0.2 * torch.randn(settings, draws, images, generator=rng)
        losses = image * (1 + effect) * (1 + noise)
        pairs = [
            Pair(template, template, (first, second), comparisons=45)
            for first, second in combinations(losses, 2)
        ]
        different = sum(pair.verdict in ("seen", "the opposite") for pair in pairs)
        false_jobs += different > 0
        one_draw = [compare_draws(a[:1], b[:1]).estimate for a, b in combinations(losses, 2)]
        called_different += sum(
            low > 0 or high < 0
            for low, high in ((row.low, row.high) for row in one_draw if row is not None)
            if low is not None and high is not None
        )
        seen += (
            Pair(template, template, (losses[0] - 6, losses[1]), comparisons=45).verdict == "seen"
        )
    print(  # noqa: T201
        f"equal settings called different in {false_jobs} of {jobs} jobs; by images of one draw in "
        f"{called_different / jobs:.1f} of 45 pairs; a difference of the mean loss seen in {seen}"
    )
    assert false_jobs <= 4
    assert called_different / jobs > 25
    assert seen >= 0.9 * jobs
