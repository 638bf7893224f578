"""A criterion of several that cannot go on, and rounds that change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from pruning.errors import BudgetError
from tests.support import cases
from tests.support.pipelines import (
    MODES,
    run,
)


def test_a_criterion_that_cannot_go_on_leaves_the_others(tmp_path: Path) -> None:
    """A single one of six hidden units remains: channels cannot make it sparser than 5 / 6."""
    criteria = [{"name": "filter_norm"}, {"name": "magnitude"}]
    recipe = cases.recipe(0.5, 0.95, criterion=criteria, retrain={"mode": "none"})
    for _ in range(2):  # a resumed job too
        pipeline = run(recipe, tmp_path)
        assert [record.id for record in pipeline.done if record.target] == [
            "filter_norm-0.5",
            "magnitude-0.5",
            "magnitude-0.95",
        ]
        (failure,) = pipeline.failures
        assert (failure.name, failure.code) == ("filter_norm", "impossible_budget")
        assert failure.message.startswith(
            "filter_norm, round 2: density 0.05 cannot be reached by removing channels"
        )
        assert pipeline.ledger.warnings[1:] == [
            f"{failure.message}; the criterion ends here, the others go on"
        ]


def test_scores_that_cannot_be_drawn_by_end_their_criterion_alone(tmp_path: Path) -> None:
    """GraSP's scores are of either sign, and sampling takes sensitivities."""
    recipe = cases.recipe(
        0.5,
        criterion=[{"name": "grasp"}, {"name": "magnitude"}],
        sparsifier={"name": "sample"},
        allocation={"name": "uniform"},
        retrain={"mode": "none"},
    )
    pipeline = run(recipe, tmp_path)
    assert [record.id for record in pipeline.done] == ["magnitude-0.5"]
    assert [(failure.name, failure.code) for failure in pipeline.failures] == [
        ("grasp", "invalid_parameter")
    ]


def test_a_job_of_which_every_criterion_fails_fails(tmp_path: Path) -> None:
    criteria = [{"name": "filter_norm"}, {"name": "filter_norm", "params": {"p": 2}}]
    for listed in (criteria, criteria[:1]):
        recipe = cases.recipe(0.5, 0.95, criterion=listed, retrain={"mode": "none"})
        with pytest.raises(
            BudgetError, match=r"filter_norm.*, round 2: density 0\.05 cannot be reached"
        ):
            run(recipe, tmp_path / str(len(listed)))


@pytest.mark.parametrize(("name", "warned"), [("obs", True), ("magnitude", False)])
def test_what_rewinding_undoes_is_told(tmp_path: Path, name: str, warned: bool) -> None:
    pipeline = run(
        cases.recipe(0.5, criterion={"name": name}, **MODES["trained weight_rewind"]), tmp_path
    )
    assert (
        any("rewinding the weights undoes" in warning for warning in pipeline.ledger.warnings)
        == warned
    )


def test_a_round_that_removes_nothing_is_told(tmp_path: Path) -> None:
    """Three of six hidden units remain for every target from 0.5 to 2 / 3."""
    pipeline = run(
        cases.recipe(0.45, 0.5, criterion={"name": "filter_norm"}, retrain={"mode": "none"}),
        tmp_path,
    )
    assert [record.density for record in pipeline.done] == [0.5, 0.5]
    (warning,) = pipeline.ledger.warnings[1:]
    assert warning.startswith(
        "filter_norm, round 2: nothing was removed: the density is 0.5 already"
    )
