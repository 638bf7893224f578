"""The comparison of criteria, alone and beside the evaluation `loss_model` in a job."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy.stats import norm

from pruning.analysis.applicability import applies_to
from pruning.evaluations.comparison import Comparison
from pruning.evaluations.loss_model import LossModelling
from pruning.measurement.intervals import binomial_interval, difference_interval
from pruning.rounds.pruning import StageLoss
from tests.support import cases
from tests.support.finished_jobs import finish_and_export
from tests.support.loss_rounds import find_note, make_record, make_round
from tests.support.pipelines import MODES


def test_the_table_of_the_comparison_by_hand() -> None:
    record = make_record(
        make_round("a", name="random", after=0.5, pruned=40, retrained=30, val=3),
        make_round("b", name="magnitude", after=0.3, pruned=50, retrained=12, val=5),
        make_round("c", name="synflow", after=0.9, pruned=40, retrained=30, val=9),
    )
    section = Comparison().evaluate(record)
    rows = section.details["criteria"]
    assert [row["criterion"] for row in rows] == ["b", "a", "c"]
    assert [row["rank_after_retraining"] for row in rows] == [1.0, 2.5, 2.5]
    assert [row["rank_right_after_pruning"] for row in rows] == [3.0, 1.5, 1.5]
    assert [row["rank_by_absolute_loss_change"] for row in rows] == [1.0, 2.0, 3.0]
    assert rows[0]["error_after_retraining"] == binomial_interval(12, 100).model_dump()
    assert rows[0]["error_right_after_pruning"] == binomial_interval(50, 100).model_dump()
    assert rows[0]["error_increase_over_control"] == difference_interval(2, 0, 100).model_dump()
    assert rows[0]["loss_change_since_start"]["value"] == pytest.approx(0.1, abs=1e-6)
    z = float(norm.ppf(1 - 0.05 / 4))  # two others
    others = {row["other"]: row for row in section.details["best_against_others"]}
    assert set(others) == {"b", "c"}, "the best is that of the validation images"
    assert others["b"]["error_difference_other_less_best"] == pytest.approx(
        difference_interval(0, 18, 100, z).model_dump()
    )
    assert others["b"]["beyond_noise"] is True
    assert others["c"]["beyond_noise"] is False
    sentence = find_note(section, "At 80 %")
    assert "a has the lowest error on the validation images. On" in sentence
    assert (
        "worse beyond noise: none; better beyond noise: b; not distinguishable from it: c"
        in sentence
    )


def test_without_retraining_the_comparison_ranks_what_was_pruned() -> None:
    record = make_record(
        make_round("a", name="random", pruned=40, retrained=None),
        make_round("b", name="magnitude", pruned=20, retrained=None),
    )
    rows = Comparison().evaluate(record).details["criteria"]
    assert [(row["criterion"], row["rank_right_after_pruning"]) for row in rows] == [
        ("b", 1.0),
        ("a", 2.0),
    ]
    assert "error_after_retraining" not in rows[0]


def test_one_criterion_is_no_comparison() -> None:
    alone = make_record(make_round("magnitude"))
    assert not applies_to(Comparison(), alone)
    assert not applies_to(LossModelling(), alone)
    assert "nothing to compare" in find_note(Comparison().evaluate(alone), "One criterion")
    assert LossModelling().evaluate(alone).curves
    assert applies_to(
        LossModelling(), make_record(make_round("qm", stages=(StageLoss(0.8, 0.1, 0.1, 0.2, 9),)))
    )
    assert applies_to(Comparison(), make_record(make_round("a"), make_round("b")))


@pytest.mark.parametrize("listed", [False, True])
def test_in_a_job_they_run_where_they_apply_or_are_asked_for(tmp_path: Path, listed: bool) -> None:
    names_of_three = ("accuracy", "comparison", "loss_model")
    evaluations = tuple({"name": name} for name in names_of_three) if listed else "all"
    for criterion, names in (
        (({"name": "magnitude"},), {"accuracy"}),
        (
            ({"name": "magnitude"}, {"name": "qm", "params": {"pi": 2, "images": 20}}),
            {"accuracy", "comparison", "loss_model"},
        ),
    ):
        recipe = cases.recipe(
            0.5, 0.8, criterion=criterion, evaluations=evaluations, **MODES["fine_tune"]
        )
        folder = tmp_path / str(len(criterion))
        results, _ = finish_and_export(recipe, folder)
        sections, failures = results.evaluate()
        assert failures == []
        assert set(sections) & {"accuracy", "comparison", "loss_model"} == (
            {"accuracy", "comparison", "loss_model"} if listed else names
        )
    assert {"true/magnitude", "true/qm", "predicted/qm", "measured/qm"} <= set(
        sections["loss_model"].curves
    )
    assert len(sections["loss_model"].curves["predicted/qm"].x) == 4
