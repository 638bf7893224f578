"""The members of a family: their jobs, sizes and curves, and specs that are refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from pruning.errors import DataError, ParameterError
from pruning.family.measurements import is_usable
from pruning.family.members import build_member_job, list_members, read_member_curve
from pruning.family.sizes import build_sizes
from pruning.rounds.plan import plan_rounds
from pruning.schemas.job import JobSpec
from tests.support import family_world as world


def test_every_member_is_a_job_of_iterative_magnitude_pruning_with_weight_rewinding() -> None:
    family = world.spec(
        keep=0.8,
        floor_density=0.1,
        members={"depths": [2], "widths": [8], "fractions": [0.5]},
        model={"architecture": "mlp", "train": {"epochs": 4, "rewind_epoch": 1}},
        dataset={"builtin": "digits", "limit": {"train": 1000, "test": 300}},
    )
    (member,) = list_members(family)
    assert member.rounds == family.rounds == math.floor(math.log(0.1) / math.log(0.8))
    job = JobSpec.model_validate(build_member_job(family, member, {"hidden": [8, 8]}))
    recipe = job.recipe()
    planned = plan_rounds(recipe)
    assert [planned_round.density for planned_round in planned] == pytest.approx(
        [0.8**i for i in range(1, 11)]
    )
    assert all(
        planned_round.epochs == (1, 4) and not planned_round.restart
        for planned_round in planned[1:]
    )
    assert (recipe.criteria[0].name, recipe.retrain.mode) == ("magnitude", "weight_rewind")
    assert recipe.allocation is not None
    assert recipe.allocation.name == "global"
    assert (recipe.limit.train, recipe.limit.test, recipe.limit.stratify) == (500, 300, False)


def test_synflow_prunes_at_initialisation_each_density_by_itself() -> None:
    family = world.spec(method="synflow", keep=0.5, floor_density=0.1)
    member = list_members(family)[0]
    job = JobSpec.model_validate(build_member_job(family, member, {"hidden": [8]}))
    planned = plan_rounds(job.recipe())
    assert (job.when, job.recipe().criteria[0].name) == ("before_training", "synflow")
    assert [planned_round.density for planned_round in planned] == pytest.approx([0.5, 0.25, 0.125])
    assert all(
        planned_round.restart and planned_round.target is not None for planned_round in planned
    )


@pytest.mark.parametrize(
    ("limit", "fraction", "wanted"),
    [
        ({}, 1.0, None),
        ({}, 0.25, 0.25),
        ({"train": 0.5}, 0.25, 0.125),
        ({"train": 0.5}, 1.0, 0.5),
        ({"train": 800}, 0.25, 200),
        ({"train": 3}, 0.1, 1),
    ],
)
def test_fractions_are_of_the_limit(
    limit: dict[str, Any], fraction: float, wanted: float | None
) -> None:
    family = world.spec(dataset={"builtin": "digits", "limit": limit})
    assert family.limit(fraction).train == wanted


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"floor_density": 0.9, "keep": 0.8}, "0 rounds"),
        ({"keep": 0.99, "floor_density": 0.01}, "458 rounds"),
        ({"members": {"depths": [1, 1], "widths": [8]}}, "listed twice"),
        ({"max_error": [0.1, 0.1]}, "listed twice"),
        ({"members": {"depths": list(range(1, 31)), "widths": list(range(1, 31))}}, "900 members"),
        (
            {
                "method": "synflow",
                "model": {"architecture": "mlp", "train": {"epochs": 2, "rewind_epoch": 1}},
            },
            "rewind_epoch",
        ),
        ({"dataset": {"builtin": "digits", "limit": {"stratify": True}}}, "stratify"),
        ({"dataset": {"builtin": "digits", "limit": {"balanced": True}}}, "balanced"),
        (
            {"dataset": {"builtin": "digits", "shifted": [{"name": "x", "id": "dst_00000000"}]}},
            "shifted",
        ),
        ({"what": 1}, "what"),
    ],
)
def test_odd_families_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        world.spec(**change)


def test_sizes_are_those_of_the_networks() -> None:
    family = world.spec(candidates={"depths": [4], "widths": [8]})
    sizes = build_sizes(family, (1, 8, 8), [str(i) for i in range(10)], "classification")
    assert sorted(sizes, key=str) == sorted(world.sizes(family), key=str)


@pytest.mark.parametrize(
    ("change", "pointer", "error"),
    [
        (
            {"model": {"architecture": "lenet_300_100", "train": {"epochs": 1}}},
            "/model/architecture",
            ParameterError,
        ),
        (
            {
                "model": {"architecture": "cifar_resnet", "train": {"epochs": 1}},
                "members": {"depths": [9], "widths": [1]},
            },
            "/members/depths",
            ParameterError,
        ),
        ({"members": {"depths": [1], "widths": [8.5]}}, "/members/widths", ParameterError),
        ({"candidates": {"depths": [1], "widths": [8.5]}}, "/candidates/widths", ParameterError),
        (
            {"model": {"architecture": "mlp", "kwargs": {"width": -1}, "train": {"epochs": 1}}},
            "/model/kwargs",
            ParameterError,
        ),
        (
            {
                "model": {"architecture": "mlp", "kwargs": {"width": 8}, "train": {"epochs": 1}},
                "members": {"depths": [1], "widths": [8.5]},
            },
            "/members/widths",
            ParameterError,
        ),
        (
            {"model": {"architecture": "mlp", "kwargs": {"hidden": [3]}, "train": {"epochs": 1}}},
            "/model/kwargs",
            ParameterError,
        ),
        (
            {
                "model": {"architecture": "vgg", "train": {"epochs": 1}},
                "members": {"depths": [11], "widths": [0.125]},
            },
            "/dataset",
            DataError,
        ),
    ],
)
def test_networks_that_cannot_be_built_are_refused(
    change: dict[str, Any], pointer: str, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        build_sizes(world.spec(**change), (1, 8, 8), [str(i) for i in range(10)], "classification")
    assert caught.value.pointer == pointer  # type: ignore[attr-defined]


def test_a_report_becomes_a_curve_of_densities_and_errors() -> None:
    def network(error: float) -> dict[str, Any]:
        return {"error": {"value": error}, "val_error": {"value": error / 2}}

    criterion = {"name": "magnitude", "params": {}}
    report: dict[str, Any] = {
        "baseline": network(0.2),
        "control": {**network(0.1), "retrain_epochs": 3},
        "data": {"fit": 90, "test": 50, "val": 10, "classes": ["a", "b"]},
        "model": {"parameters": 20, "prunable": 15},
        "checkpoints": [{"id": "c", "density": 0.25, "parameters": 9, **network(0.3)}],
        "rounds": [
            {
                "criterion": criterion,
                "density": 0.25,
                "pruned": network(0.5),
                "retrained": network(0.3),
            },
            {"criterion": criterion, "density": 0.5, "pruned": network(0.2), "retrained": None},
        ],
    }
    curve = read_member_curve(report)
    assert curve is not None
    assert curve.unpruned_error == pytest.approx(0.15)
    assert (curve.densities, curve.errors) == ((0.5, 0.25), (0.2, 0.3))
    assert (curve.images, curve.test_images, curve.classes, curve.final) == (
        90,
        50,
        2,
        {"id": "c", "error": {"value": 0.3}, "parameters": 9, "density": 0.25},
    )
    assert curve.unpruned_val_error == pytest.approx(0.075)
    assert (curve.val_errors, curve.val_images) == ((0.1, 0.15), 10)
    assert (curve.guessing_error, curve.chance) == (None, 0.5)  # a report of an earlier version
    report["data"]["guessing_error"] = 0.1
    report["control"]["retrain_epochs"] = 0
    again = read_member_curve(report)
    assert again is not None
    assert again.unpruned_error == again.chance == 0.1
    assert not is_usable(again)
    assert is_usable(curve)
    report["rounds"][0]["criterion"] = {"name": "random", "params": {}}
    assert read_member_curve(report) is None
    assert read_member_curve({**report, "rounds": []}) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"members": {"depths": [1, 2], "widths": [8, 16]}, "keep": 0.5, "floor_density": 0.4},
            "too few for a law",
        ),
        ({"adaptive": {"max_members": 2}}, "needs 3 networks"),
        (
            {"candidates": {"depths": list(range(1, 20)), "widths": list(range(1, 20))}},
            "at most 128",
        ),
    ],
)
def test_families_that_can_have_no_law_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        world.spec(**change)
