"""The cost of scoring, estimated before anything runs: forward passes, and memory."""

from __future__ import annotations

from typing import Any

import pytest

from pruning.criteria import criteria
from pruning.criteria.exact_obs import ExactOBS
from pruning.criteria.obs import OBS
from pruning.errors import ParameterError
from pruning.rounds.costs import Costs, estimate_costs
from pruning.rounds.plan import plan_rounds
from tests.support import cases

IMAGES = {"fit": 40, "val": 10, "test": 30}
SHAPES = [(64, 32, 3, 3), (10, 64)]  # 18432 and 640 weights
MIB = 2**20


@pytest.mark.parametrize(
    ("name", "params", "units_by_image"),
    [
        ("taylor", {"images": 10**6}, 3),
        ("taylor", {"images": 7}, 3 * 7 / 40),
        ("lm", {"images": 10**6, "pi": 1}, 3),
        ("qm", {"images": 10**6, "pi": 1}, 3 * 5),
        ("snip", {"images_per_class": 10**5}, 3),
        ("snip", {"images_per_class": 2}, 3 * 6 / 40),
        ("grasp", {}, 9 * 30 / 40),
        ("wanda", {}, 1),
        ("thinet", {}, 1),
        ("taylor_filter", {}, 3),
        ("obs", {"pi": 1}, 20),
        ("exact_obs", {}, 30),
    ],
)
def test_scoring_costs_no_more_than_all_training_images(
    name: str, params: dict[str, Any], units_by_image: float
) -> None:
    recipe = cases.recipe(0.5, criterion={"name": name, "params": params})
    assert Costs(recipe, IMAGES, 3).pruning(recipe.criteria[0], plan_rounds(recipe)[0]) == (
        1,
        round(units_by_image * 40),
    )


def test_synflow_looks_at_one_image_a_stage() -> None:
    recipe = cases.recipe(0.5, criterion={"name": "synflow", "params": {"rounds": 200}})
    assert Costs(recipe, IMAGES, 3).pruning(recipe.criteria[0], plan_rounds(recipe)[0]) == (200, 3)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("lm", {"images": 10**6 + 1}),
        ("lm", {"lambda": 1e300}),
        ("obs", {"images": 10**12}),
        ("obs", {"damping": 1e300}),
        ("obs", {"block_size": 10**5}),
        ("obs", {"gradients": 10**9}),
        ("exact_obs", {"images": 10**12}),
        ("exact_obs", {"damping": 1e300}),
        ("taylor", {"images": 10**30}),
        ("snip", {"images_per_class": 10**9}),
    ],
)
def test_parameters_have_a_largest_value(name: str, params: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="less than or equal to"):
        criteria.create(name, params)


@pytest.mark.parametrize(
    ("params", "images", "expected"),
    [
        # One block of 500 takes 250,000 numbers. 33 of the 37 blocks fit into 64 MiB at a time, as
        # four such matrices each.
        ({}, 1000, 4 * 250 * 19072 + 4 * 8 * 33 * 500 * 500),
        ({}, 40, 4 * 40 * 19072 + 4 * 8 * 33 * 500 * 500),
        ({"block_size": 10}, 1000, 4 * 250 * 19072 + 4 * 8 * 1844 * 10 * 250),
        ({"block_size": 10, "gradients": 9}, 1000, 4 * 9 * 19072 + 4 * 8 * 1844 * 10 * 10),
        ({"block_size": 10_000}, 40, 4 * 40 * 19072 + 4 * 8 * 10_000**2),
    ],
)
def test_memory_of_obs_by_hand(params: dict[str, Any], images: int, expected: int) -> None:
    assert OBS(**params).memory(SHAPES, images) == expected


def test_large_layers_take_half_as_much_again_where_gradients_are_checked() -> None:
    assert OBS(block_size=1).memory([(1000, 1000)], 250) == 4 * 250 * 10**6 + 6 * 250 * 10**6


def test_memory_of_exact_obs_by_hand() -> None:
    hessians = 288**2 + 64**2
    assert ExactOBS().memory(SHAPES, 1000) == 8 * (hessians + 2 * 288**2 + 3 * 64 * 288**2)
    assert ExactOBS().memory([(1000, 4000)], 1000) == 8 * 6 * 4000**2, (
        "one row's matrices at a time"
    )


def test_the_estimate_holds_what_the_criteria_hold() -> None:
    """About a ResNet-20: 250 gradients of 268,288 weights in float32 are 256 MiB, the blocks 256
    MiB more.
    """
    prunable = [(1048, 16)] * 16
    network: dict[str, Any] = {
        "prunable": prunable,
        "parameters": 269_722,
        "activations": 29_000,
        "classes": 10,
    }
    estimates = {
        name: estimate_costs(
            cases.recipe(0.5, criterion={"name": name}),
            {"train": 1200, "test": 100},
            forward_flops=1,
            **network,
        )["memory_bytes"]
        for name in ("magnitude", "obs")
    }
    assert estimates["magnitude"] == 4 * (4 * 269_722 + 2 * 29_000 * 128)
    assert estimates["obs"] == 4 * (269_722 + 2 * 29_000 * 100) + OBS().memory(prunable, 1000)
    assert 510 * MIB < estimates["obs"] < 560 * MIB
    both = estimate_costs(
        cases.recipe(0.5, criterion=[{"name": "magnitude"}, {"name": "obs"}]),
        {"train": 1200, "test": 100},
        forward_flops=1,
        **network,
    )
    assert both["memory_bytes"] == estimates["obs"]
