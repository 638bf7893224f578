"""The rounds of a job and what they cost, before anything runs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import pytest

from pruning.criteria.magnitude import Magnitude
from pruning.errors import BudgetError, ParameterError, UnknownNameError
from pruning.pipeline.evaluation_traits import reads_losses
from pruning.rounds.costs import TEACHER_COST, TRAIN_COST, Costs, count_split_images, estimate_costs
from pruning.rounds.method import PruningMethod
from pruning.rounds.plan import plan_rounds
from pruning.schedules import schedules
from pruning.schemas.recipe import Limit, Recipe
from pruning.types import Calibration
from tests.support import cases
from tests.support.job_sizes import COUNTS, IMAGES, MANY

REAL = PruningMethod.of
TRAIN = {"epochs": 3, "rewind_epoch": 1, "batch_size": 8}


def recipes() -> list[Recipe]:
    """Every schedule, cascade and independent, every time of pruning and retraining."""
    recipes = []
    for name, independent in itertools.product(schedules.names(), (False, True)):
        common: dict[str, Any] = {"schedule": {"name": name}, "independent": independent}
        recipes.append(
            cases.recipe(
                0.5, 0.8, when="before_training", train=TRAIN, retrain={"mode": "none"}, **common
            )
        )
        recipes.append(cases.recipe(0.5, 0.8, retrain={"mode": "none"}, **common))
        recipes.append(cases.recipe(0.5, 0.8, retrain={"mode": "fine_tune", "epochs": 2}, **common))
        recipes += [
            cases.recipe(0.5, 0.8, retrain={"mode": mode}, train=TRAIN, **common)
            for mode in ("weight_rewind", "lr_rewind")
        ]
        if independent:
            recipes.append(
                cases.recipe(0.5, 0.8, retrain={"mode": "gradual", "epochs": 20}, **common)
            )
    return recipes


@pytest.mark.parametrize(
    "recipe",
    recipes(),
    ids=lambda r: f"{r.schedule.name}-{r.independent}-{r.when}-{r.retrain.mode}",
)
def test_rounds_end_exactly_at_the_targets(recipe: Recipe) -> None:
    planned = plan_rounds(recipe)
    assert [plan.number for plan in planned] == list(range(1, len(planned) + 1))
    assert [(plan.target, plan.sparsity) for plan in planned if plan.target is not None] == [
        (0.5, 0.5),
        (0.8, 0.8),
    ]
    assert all(plan.density == pytest.approx(1 - plan.sparsity, abs=1e-15) for plan in planned)
    starts = [plan.number for plan in planned if plan.restart]
    first = next(plan.number for plan in planned if plan.target == 0.5)
    assert starts == ([1, first + 1] if recipe.independent else [1])
    previous = 1.0
    for plan in planned:
        previous = 1.0 if plan.restart else previous
        assert plan.density < previous
        previous = plan.density
    if recipe.when == "before_training":
        assert [plan.retrained for plan in planned] == [plan.target is not None for plan in planned]
    else:
        assert {plan.retrained for plan in planned} == {recipe.retrain.mode != "none"}


def test_targets_are_planned_densest_first_with_stretches_between() -> None:
    planned = plan_rounds(
        cases.recipe(0.9, 0.5, schedule={"name": "linear", "params": {"rounds": 2}})
    )
    assert [round(plan.density, 10) for plan in planned] == [0.75, 0.5, 0.3, 0.1]
    independent = plan_rounds(
        cases.recipe(
            0.9, 0.5, schedule={"name": "linear", "params": {"rounds": 2}}, independent=True
        )
    )
    assert [round(plan.density, 10) for plan in independent] == [0.75, 0.5, 0.55, 0.1]


def test_targets_closer_than_the_rounds_give_one_checkpoint_each() -> None:
    planned = plan_rounds(
        cases.recipe(0.5, 0.5 + 1e-15, schedule={"name": "cubic", "params": {"rounds": 1000}})
    )
    assert len([plan for plan in planned if plan.target is not None]) == 2


def test_unknown_schedules_and_parameters() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'linear'"):
        plan_rounds(cases.recipe(schedule={"name": "linea"}))
    with pytest.raises(ParameterError, match="rounds"):
        plan_rounds(cases.recipe(schedule={"name": "linear", "params": {"rounds": 0}}))


@pytest.mark.parametrize(
    ("fields", "dense", "control", "round_cost"),
    [
        ({"retrain": {"mode": "none"}}, 40, 0, 40),
        ({"retrain": {"mode": "fine_tune", "epochs": 2}}, 40, 2 * (240 + 40), 40 + 240 + 40),
        (
            {"retrain": {"mode": "fine_tune", "epochs": 2, "distill": True}},
            40,
            2 * (320 + 40),
            40 + 320 + 40,
        ),
        ({"retrain": {"mode": "lr_rewind", "epochs": 5, "rewind_epoch": 3}}, 40, 560, 320),
        ({"retrain": {"mode": "weight_rewind"}, "train": TRAIN}, 360 + 40, 280, 320),
        (
            {"retrain": {"mode": "weight_rewind", "distill": True}, "train": TRAIN},
            360 + 40,
            360,
            400,
        ),
        ({"retrain": {"mode": "fine_tune"}, "train": TRAIN}, 400, 320, 200),
        ({"retrain": {"mode": "gradual", "epochs": 2}, "independent": True}, 40, 280, 320),
        ({"when": "before_training", "train": TRAIN}, 400, 0, 40 + 360 + 40),
    ],
)
def test_costs_by_hand(fields: dict[str, Any], dense: int, control: int, round_cost: int) -> None:
    recipe = cases.recipe(0.5, 0.8, **fields)
    costs = Costs(recipe, IMAGES, 3)
    round_cost += 80  # the loss on 40 training images before and after pruning
    assert (TRAIN_COST, TEACHER_COST) == (3, 1)
    assert costs.dense == dense
    assert costs.control == control
    assert costs.round(recipe.criteria[0], plan_rounds(recipe)[0]) == round_cost
    assert costs.total == dense + control + 2 * round_cost
    several = recipe.model_copy(update={"criterion": (recipe.criteria[0],) * 3})
    assert Costs(several, IMAGES, 3).total == dense + control + 6 * round_cost


def test_the_loss_is_measured_on_at_most_2000_training_images() -> None:
    recipe = cases.recipe(0.5, retrain={"mode": "none"})
    assert Costs(recipe, {"fit": 5000, "val": 0, "test": 1}, 3).total == 1 + 1 + 2 * 2000


@dataclass(frozen=True)
class Stagewise(Magnitude):
    """Two stages in a round, each of seven units a class on 40 images."""

    def stage_densities(self, start: float, target: float) -> list[float]:
        return [(start + target) / 2, target]

    def calibration(self, classes: int) -> Calibration:
        return Calibration(40)

    def units(self, classes: int) -> int:
        return 7 * classes


def test_scoring_costs_what_the_criterion_says_at_every_stage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = cases.recipe(0.5, 0.8, retrain={"mode": "none"})
    without = Costs(recipe, IMAGES, 3).total
    monkeypatch.setattr(
        "pruning.rounds.method.PruningMethod.of",
        lambda recipe, method: replace(REAL(recipe, method), criterion=Stagewise()),
    )
    assert Costs(recipe, IMAGES, 3).total == without + 2 * 2 * 21
    fewer = IMAGES | {"fit": 20}
    assert Costs(recipe, fewer, 3).pruning(recipe.criteria[0], plan_rounds(recipe)[0]) == (2, 11), (
        "half the images, rounded up"
    )


def test_an_estimate_by_hand() -> None:
    recipe = cases.recipe(
        0.5, 0.8, retrain={"mode": "fine_tune", "epochs": 2, "batch_size": 8}, limit=Limit(test=20)
    )
    costs = estimate_costs(
        recipe,
        {"train": 50, "test": 30, "val": 0},
        prunable=[(100,)],
        forward_flops=7,
        parameters=110,
        activations=13,
        classes=3,
    )
    assert costs["images"] == {"fit": 45, "val": 5, "test": 20}
    assert costs["rounds"] == costs["checkpoints"] == 2
    assert (
        costs["steps"] == 6 * 2 * 4
    )  # five batches of 8 and one of 5; two epochs; two controls and two rounds
    assert costs["units"] == Costs(recipe, costs["images"], 3).total
    assert costs["flops"] == 7 * costs["units"]
    assert costs["memory_bytes"] >= 4 * (4 * 110 + 13 * 8)


def test_an_unreachable_target_is_told_before_the_job_runs() -> None:
    for sparsity in (0.999, 1 - 1e-16):
        with pytest.raises(BudgetError, match="at least one must remain") as caught:
            estimate_costs(cases.recipe(sparsity), COUNTS, **MANY | {"prunable": [(100,)]})
        assert caught.value.pointer == "/targets/sparsity"


def test_limits_beyond_the_dataset_change_nothing() -> None:
    assert count_split_images(
        cases.recipe(limit=Limit(train=999, test=999)), {"train": 50, "val": 7, "test": 30}
    ) == {"fit": 50, "val": 7, "test": 30}


def test_a_job_has_a_bounded_number_of_rounds() -> None:
    many = cases.recipe(
        0.5,
        0.8,
        schedule={"name": "linear", "params": {"rounds": 10_000}},
        retrain={"mode": "none"},
    )
    with pytest.raises(BudgetError, match="at most 2000"):
        estimate_costs(many, COUNTS, **MANY)


def test_a_target_that_removes_nothing_is_refused() -> None:
    with pytest.raises(BudgetError, match="removes none of 100"):
        estimate_costs(cases.recipe(0.001), COUNTS, **MANY | {"prunable": [(100,)]})


@pytest.mark.parametrize(("mode", "controls"), [("weight_rewind", 1), ("lr_rewind", 2)])
def test_steps_of_rewinding_are_those_of_the_replayed_schedule(mode: str, controls: int) -> None:
    recipe = cases.recipe(0.5, 0.8, retrain={"mode": mode}, train=TRAIN)
    costs = estimate_costs(recipe, COUNTS, **MANY)
    assert costs["steps"] == 6 * 3 + 6 * 2 * (
        controls + 2
    )  # 45 images in batches of 8; controls and two rounds from epoch 1 to 3


def test_distillation_holds_a_second_network() -> None:
    plain, distilled = (
        estimate_costs(
            cases.recipe(0.5, retrain={"distill": distill}), COUNTS, **MANY | {"parameters": 1000}
        )
        for distill in (False, True)
    )
    assert distilled["memory_bytes"] - plain["memory_bytes"] == 4 * 1000
    assert (
        distilled["units"] - plain["units"] == 2 * 45
    )  # the teacher's forward passes, for the control and one round
    assert {key for key in plain if plain[key] != distilled[key]} == {
        "memory_bytes",
        "units",
        "parts",
        "flops",
    }


# rounding to whole weights


def test_every_retrained_round_removes_a_weight_or_is_refused() -> None:
    geometric: dict[str, Any] = {"schedule": {"name": "geometric", "params": {"fraction": 0.2}}}
    imp = {"retrain": {"mode": "weight_rewind"}, "train": TRAIN}
    with pytest.raises(
        BudgetError, match=r"round 2 at sparsity 0\.36 .* removes nothing: 3 of 4 weights remain"
    ) as caught:
        estimate_costs(
            cases.recipe(0.5, **geometric, **imp), COUNTS, **MANY | {"prunable": [(4,)]}
        )  # 3.2, 2.56: both are 3
    assert caught.value.pointer == "/schedule"
    with pytest.raises(BudgetError, match=r"round 1 .* removes nothing: 2 of 2"):
        estimate_costs(cases.recipe(0.5, **geometric, **imp), COUNTS, **MANY | {"prunable": [(2,)]})
    with pytest.raises(BudgetError, match=r"round 2 .* removes nothing: 5 of 10") as caught:
        estimate_costs(cases.recipe(0.5, 0.501), COUNTS, **MANY | {"prunable": [(10,)]})
    assert caught.value.pointer == "/targets/sparsity"
    for prunable in (20, 50, 1000):
        costs = estimate_costs(
            cases.recipe(0.7, **geometric, **imp), COUNTS, **MANY | {"prunable": [(prunable,)]}
        )
        assert costs["rounds"] == 6


@pytest.mark.parametrize(
    "fields",
    [
        {"retrain": {"mode": "none"}},
        {"when": "before_training", "train": TRAIN},
        {"retrain": {"mode": "gradual", "epochs": 20}},
    ],
)
def test_rounds_that_cost_no_retraining_of_their_own_may_be_empty(fields: dict[str, Any]) -> None:
    recipe = cases.recipe(0.5, schedule={"name": "cubic", "params": {"rounds": 10}}, **fields)
    assert estimate_costs(recipe, COUNTS, **MANY | {"prunable": [(20,)]})["rounds"] == 10


def test_independent_targets_are_counted_from_the_dense_network() -> None:
    close = cases.recipe(0.5, 0.501, independent=True)
    assert estimate_costs(close, COUNTS, **MANY | {"prunable": [(10,)]})["rounds"] == 2


def test_parts_add_up_to_the_total() -> None:
    for fields in ({"retrain": {"mode": "fine_tune", "epochs": 2}}, {"retrain": {"mode": "none"}}):
        recipe = cases.recipe(0.5, 0.8, **fields)
        costs = Costs(recipe, IMAGES, 3, has_batchnorm=True)
        epochs = 2 if recipe.retrain.mode == "fine_tune" else 0
        assert costs.parts == {
            "training": (2 + 2) * epochs * 120,
            "scoring": 0,
            "measuring": 40 * (1 + (6 if epochs else 2)),
            "batchnorm": 2 * (27 + 2 * 13),
            "losses": 2 * 80,
        }
        assert costs.total == sum(costs.parts.values())
        without = Costs(recipe, IMAGES, 3)
        assert costs.total == without.total + 2 * (27 + 2 * 13)


def test_a_job_spends_its_work_on_what_it_was_asked_for() -> None:
    """The slice of Lost in Pruning: training, scoring, what is measured of shipped networks, and
    the evaluations are at least 85 % of its work.
    """
    recipe = Recipe.model_validate(
        {
            "criterion": [{"name": name} for name in ("magnitude", "filter_norm", "sipp", "pfp")],
            "targets": {"sparsity": [0.15, 0.3, 0.46, 0.6, 0.69, 0.8]},
            "retrain": {"mode": "fine_tune", "epochs": 1},
            "evaluations": [{"name": "accuracy"}, {"name": "robustness"}],
        }
    )
    costs = Costs(
        recipe,
        {"fit": 2000, "val": 200, "test": 1000},
        10,
        reads_losses=reads_losses(recipe),
        has_batchnorm=True,
    )
    corrupted = 15 * 1000 * (24 + 2)
    after_pruning = 24 * costs.measuring
    overhead = costs.parts["batchnorm"] + costs.parts["losses"] + after_pruning
    assert overhead < 0.15 * (costs.total + corrupted)
