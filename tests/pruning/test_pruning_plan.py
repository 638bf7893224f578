"""The rounds of a job and what they cost, before anything runs."""

from __future__ import annotations

import itertools
from typing import Any

import cases
import pytest

from pruning.errors import BudgetError, ParameterError, UnknownNameError
from pruning.plan import TRAIN_COST, Costs, estimate, rounds, split_sizes
from pruning.schedules import schedules
from pruning.schemas.recipe import Limit, Recipe

TRAIN = {"epochs": 3, "rewind_epoch": 1, "batch_size": 8}
IMAGES = {"fit": 40, "val": 10, "test": 30}


def recipes() -> list[Recipe]:
    """Every schedule, cascade and independent, every time of pruning and retraining."""
    found = []
    for name, independent in itertools.product(schedules.names(), (False, True)):
        common: dict[str, Any] = {"schedule": {"name": name}, "independent": independent}
        found.append(cases.recipe(0.5, 0.8, when="before_training", train=TRAIN, retrain={"mode": "none"}, **common))
        found.append(cases.recipe(0.5, 0.8, retrain={"mode": "none"}, **common))
        found.append(cases.recipe(0.5, 0.8, retrain={"mode": "fine_tune", "epochs": 2}, **common))
        found += [cases.recipe(0.5, 0.8, retrain={"mode": mode}, train=TRAIN, **common)
                  for mode in ("weight_rewind", "lr_rewind")]
    return found


@pytest.mark.parametrize(
    "recipe", recipes(), ids=lambda r: f"{r.schedule.name}-{r.independent}-{r.when}-{r.retrain.mode}")
def test_rounds_end_exactly_at_the_targets(recipe: Recipe) -> None:
    planned = rounds(recipe)
    assert [one.number for one in planned] == list(range(1, len(planned) + 1))
    assert [(one.target, one.sparsity) for one in planned if one.target is not None] == [(0.5, 0.5), (0.8, 0.8)]
    assert all(one.density == pytest.approx(1 - one.sparsity, abs=1e-15) for one in planned)
    starts = [one.number for one in planned if one.restart]
    first = next(one.number for one in planned if one.target == 0.5)
    assert starts == ([1, first + 1] if recipe.independent else [1])
    previous = 1.0
    for one in planned:
        previous = 1.0 if one.restart else previous
        assert one.density < previous
        previous = one.density
    if recipe.when == "before_training":
        assert [one.retrained for one in planned] == [one.target is not None for one in planned]
    else:
        assert {one.retrained for one in planned} == {recipe.retrain.mode != "none"}


def test_targets_are_planned_densest_first_with_stretches_between() -> None:
    planned = rounds(cases.recipe(0.9, 0.5, schedule={"name": "linear", "params": {"rounds": 2}}))
    assert [round(one.density, 10) for one in planned] == [0.75, 0.5, 0.3, 0.1]
    independent = rounds(cases.recipe(0.9, 0.5, schedule={"name": "linear", "params": {"rounds": 2}}, independent=True))
    assert [round(one.density, 10) for one in independent] == [0.75, 0.5, 0.55, 0.1]


def test_targets_closer_than_the_rounds_give_one_checkpoint_each() -> None:
    planned = rounds(cases.recipe(0.5, 0.5 + 1e-15, schedule={"name": "cubic", "params": {"rounds": 1000}}))
    assert len([one for one in planned if one.target is not None]) == 2


def test_unknown_schedules_and_parameters() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'linear'"):
        rounds(cases.recipe(schedule={"name": "linea"}))
    with pytest.raises(ParameterError, match="rounds"):
        rounds(cases.recipe(schedule={"name": "linear", "params": {"rounds": 0}}))


@pytest.mark.parametrize(("fields", "dense", "control", "each"), [
    ({"retrain": {"mode": "none"}}, 40, 0, 40),
    ({"retrain": {"mode": "fine_tune", "epochs": 2}}, 40, 240 + 40, 40 + 240 + 40),
    ({"retrain": {"mode": "lr_rewind", "epochs": 5, "rewind_epoch": 3}}, 40, 280, 320),
    ({"retrain": {"mode": "weight_rewind"}, "train": TRAIN}, 360 + 40, 280, 320),
    ({"retrain": {"mode": "fine_tune"}, "train": TRAIN}, 400, 160, 200),
    ({"when": "before_training", "train": TRAIN}, 400, 0, 40 + 360 + 40),
])
def test_costs_by_hand(fields: dict[str, Any], dense: int, control: int, each: int) -> None:
    recipe = cases.recipe(0.5, 0.8, **fields)
    costs = Costs.of(recipe, IMAGES)
    assert TRAIN_COST == 3
    assert (costs.dense, costs.control(recipe), costs.round(rounds(recipe)[0])) == (dense, control, each)
    assert costs.total(recipe) == dense + control + 2 * each
    several = recipe.model_copy(update={"criterion": (recipe.criteria[0],) * 3})
    assert costs.total(several) == dense + control + 6 * each


def test_an_estimate_by_hand() -> None:
    recipe = cases.recipe(0.5, 0.8, retrain={"mode": "fine_tune", "epochs": 2, "batch_size": 8}, limit=Limit(test=20))
    found = estimate(recipe, {"train": 50, "test": 30, "val": 0}, prunable=100, forward_flops=7, parameters=110,
                     activations=13)
    assert found["images"] == {"fit": 45, "val": 5, "test": 20}
    assert found["rounds"] == found["checkpoints"] == 2
    assert found["steps"] == 6 * 2 * 3  # five batches of 8 and one of 5; two epochs; control and two rounds
    assert found["units"] == Costs.of(recipe, found["images"]).total(recipe)
    assert found["flops"] == 7 * found["units"]
    assert found["memory_bytes"] >= 4 * (4 * 110 + 13 * 8)


def test_an_unreachable_target_is_told_before_the_job_runs() -> None:
    with pytest.raises(BudgetError, match="at least one must remain"):
        estimate(cases.recipe(0.999), {"train": 50, "test": 30}, prunable=100, forward_flops=1, parameters=1,
                 activations=1)


def test_limits_beyond_the_dataset_change_nothing() -> None:
    assert split_sizes(cases.recipe(limit=Limit(train=999, test=999)), {"train": 50, "val": 7, "test": 30}) == {
        "fit": 50, "val": 7, "test": 30}


def test_a_job_has_a_bounded_number_of_rounds() -> None:
    many = cases.recipe(0.5, 0.8, schedule={"name": "linear", "params": {"rounds": 10_000}}, retrain={"mode": "none"})
    with pytest.raises(BudgetError, match="at most 2000"):
        estimate(many, {"train": 50, "test": 30}, prunable=10**9, forward_flops=1, parameters=1, activations=1)


def test_a_target_that_removes_nothing_is_refused() -> None:
    with pytest.raises(BudgetError, match="removes none of 100"):
        estimate(cases.recipe(0.001), {"train": 50, "test": 30}, prunable=100, forward_flops=1, parameters=1,
                 activations=1)
