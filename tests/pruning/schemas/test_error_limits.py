"""Limits on the error as targets: what is accepted, what is refused, and where."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pruning.rounds.costs import list_warnings
from pruning.rounds.error_search import STEPS, count_most_tried
from pruning.rounds.plan import plan_costliest_rounds, plan_rounds
from pruning.schemas.job import JobSpec
from pruning.schemas.recipe import Recipe, Targets

JOB: dict[str, Any] = {
    "type": "prune",
    "model": {"id": "mdl_00000000"},
    "dataset": {"builtin": "digits"},
    "targets": {"max_error_increase": 0.01},
}


def test_a_number_is_a_list_of_one_and_lists_are_sorted() -> None:
    assert Targets.model_validate({"max_error_increase": 0.01}).values == (0.01,)
    assert Targets.model_validate({"max_error_increase": [0.02, 0]}).values == (0.0, 0.02)
    alone = Recipe.model_validate({"targets": {"max_error_increase": 0.01}})
    listed = Recipe.model_validate({"targets": {"max_error_increase": [0.01]}})
    assert alone.digest() == listed.digest()
    assert JobSpec.model_validate(JOB).recipe().targets.are_searched


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (1, "1 is no limit on the error, which is a fraction"),
        (-0.01, "one point of accuracy is 0.01"),
        (float("nan"), "no limit|finite"),
        ([], "at least 1 item"),
        ([0.01, 0.02, 0.03, 0.04, 0.05], "at most 4 items"),
        ([0.01, 0.01], "a limit is listed twice"),
        (True, "max_error_increase"),
    ],
)
def test_what_is_no_limit_is_refused(limits: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message) as raised:
        Targets.model_validate({"max_error_increase": limits})
    assert raised.value.errors()[0]["loc"][0] == "max_error_increase"


def test_one_quantity_alone_is_given() -> None:
    with pytest.raises(ValidationError, match="sparsity and max_error_increase"):
        Targets.model_validate({"sparsity": [0.5], "max_error_increase": 0.01})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("replicates", 3, "replicates: under a limit on the error each would end at another"),
        ("overrides", {"fc1": 0.5}, "overrides: they go with targets.sparsity; under a limit"),
    ],
)
def test_what_does_not_go_with_a_search_is_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        JobSpec.model_validate(JOB | {field: value})


@pytest.mark.parametrize("limits", [(0.01,), (0.01, 0.02), (0.01, 0.02, 0.03, 0.04)])
def test_the_plan_has_every_step_and_the_estimate_the_most_that_are_tried(
    limits: tuple[float, ...],
) -> None:
    recipe = Recipe(targets=Targets(max_error_increase=limits))
    planned = plan_rounds(recipe)
    assert [row.number for row in planned] == list(range(1, STEPS + 1))
    assert all(row.restart and row.start == 1.0 and row.target is not None for row in planned)
    most = count_most_tried(len(limits))
    assert plan_costliest_rounds(recipe) == planned[-most:]
    assert f"at most {most} of {STEPS} networks" in list_warnings(recipe)[0]


def test_the_steps_of_a_network_with_zeros_begin_below_its_density() -> None:
    planned = plan_rounds(Recipe(targets=Targets(max_error_increase=(0.01,))), given=0.4)
    assert planned[0].start == 0.4
    assert planned[0].density == pytest.approx(0.34)
    assert all(row.density < 0.4 for row in planned)
