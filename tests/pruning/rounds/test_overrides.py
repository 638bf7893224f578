"""Sparsities of single layers: an independent count of what each has, whatever the method."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from pruning.architectures import architectures
from pruning.errors import BudgetError, ParameterError, SecateurError
from pruning.evidence.evidence import Evidence
from pruning.masks import build_full_masks, find_prunable
from pruning.networks.loading import build_network
from pruning.rounds.method import PruningMethod
from pruning.rounds.overrides import check_overrides, resolve_overrides
from pruning.rounds.pruning import prune_
from pruning.rounds.rehearsal import rehearse
from pruning.schemas.recipe import Recipe
from pruning.types import Masks
from tests.support.attention_nets import build_transformer

Shape = tuple[int, int, int]
RESNET: dict[str, Any] = {"depth": 8, "width": 0.25, "shortcut": "B"}
NETWORKS: Mapping[str, tuple[Shape, dict[str, float]]] = {
    "resnet": ((3, 8, 8), {"layer2.*": 0.3, "layer3.0.conv1": 0.9}),
    "vgg": ((3, 32, 32), {"features.?.weight": 0.25, "features.11": 0.0}),
    "mlp": ((1, 8, 8), {"fc2": 0.75}),
    "transformer": ((3, 8, 8), {"blocks.*.fc1": 0.4}),
}
"""For each network the shape of an image, and sparsities of some of its layers."""


def build(net: str) -> nn.Module:
    torch.manual_seed(0)
    if net == "transformer":
        return build_transformer("fused").float()
    networks: dict[str, tuple[str, dict[str, Any]]] = {
        "resnet": ("cifar_resnet", RESNET),
        "vgg": ("vgg", {"depth": 11, "width": 0.125}),
        "mlp": ("mlp", {"height": 8, "width": 8, "hidden": (32, 16)}),
    }
    name, kwargs = networks[net]
    return build_network(architectures.create(name, kwargs))


def write(*sparsities: float, criterion: str = "magnitude", **fields: Any) -> Recipe:
    return Recipe.model_validate(
        {"criterion": {"name": criterion}, "targets": {"sparsity": sparsities}} | fields
    )


def run(net: str, recipe: Recipe, *densities: float) -> list[Masks]:
    """Prune to the targets of a recipe, or to these densities one after the other."""
    model, (shape, _) = build(net), NETWORKS[net]
    method = PruningMethod.of(recipe, recipe.criteria[0])
    masks = build_full_masks(find_prunable(model, recipe.exclude, recipe.include))
    results = []
    for density in densities or [1.0 - sparsity for sparsity in recipe.targets.values]:
        masks = prune_(
            model,
            masks,
            density,
            method,
            lambda masks, stage: Evidence(
                model, masks, exclude=recipe.exclude, include=recipe.include, shape=shape
            ),
            generator=torch.Generator().manual_seed(0),
        )
        results.append(masks)
        for name, mask in masks.items():
            assert not bool(model.get_parameter(name).detach()[~mask].any())
    return results


@cache
def list_weights(net: str) -> dict[str, int]:
    return {name: weight.numel() for name, weight in find_prunable(build(net)).items()}


def count(masks: Masks, name: str) -> int:
    return sum(bool(value) for value in masks[name].flatten().tolist())


def meant(net: str) -> dict[str, float]:
    """The sparsity of each weight with one, by the names alone."""
    overrides = NETWORKS[net][1]
    patterns = resolve_overrides(overrides, list_weights(net))
    return {name: overrides[pattern] for name, pattern in patterns.items()}


@pytest.mark.parametrize("net", NETWORKS)
@pytest.mark.parametrize("allocation", ["global", "uniform", "uniform_plus", "erk"])
@pytest.mark.parametrize("criterion", ["magnitude", "random", "lamp"])
def test_single_weights_are_counted_as_asked(net: str, allocation: str, criterion: str) -> None:
    recipe = write(
        0.5, 0.8, criterion=criterion, overrides=NETWORKS[net][1], allocation={"name": allocation}
    )
    sizes = list_weights(net)
    for sparsity, masks in zip(recipe.targets.values, run(net, recipe), strict=True):
        for name, own in meant(net).items():
            assert count(masks, name) == sizes[name] - round(own * sizes[name])
        total = sum(sizes.values())
        assert sum(count(masks, name) for name in sizes) == total - round(sparsity * total)


@pytest.mark.parametrize("net", NETWORKS)
@pytest.mark.parametrize("allocation", ["proportional", "bound_optimal"])
def test_allocations_by_sensitivity_divide_what_is_left(net: str, allocation: str) -> None:
    """Scores of `random` are sensitivities as far as their sign goes."""
    recipe = write(
        0.6, criterion="random", overrides=NETWORKS[net][1], allocation={"name": allocation}
    )
    (masks,) = run(net, recipe)
    sizes = list_weights(net)
    for name, own in meant(net).items():
        assert count(masks, name) == sizes[name] - round(own * sizes[name])
    total = sum(sizes.values())
    assert sum(count(masks, name) for name in sizes) == total - round(0.6 * total)


@pytest.mark.parametrize("granularity", ["block", "n_m"])
@pytest.mark.parametrize("net", ["vgg", "mlp"])
def test_patterns_are_counted_to_the_whole_pattern(net: str, granularity: str) -> None:
    overrides = {"features.11": 0.5, "features.25": 0.25}
    if net == "mlp":
        overrides = {"fc2": 0.5}
    recipe = write(0.4, overrides=overrides, granularity={"name": granularity})
    (masks,) = run(net, recipe)
    sizes = list_weights(net)
    for name, pattern in resolve_overrides(overrides, sizes).items():
        assert count(masks, name) == sizes[name] * (1 - overrides[pattern])  # they divide by four
    total = sum(sizes.values())
    kept = sum(count(masks, name) for name in sizes)
    assert 0.6 * total - 4 < kept <= total - round(0.4 * total)


def count_rows(masks: Masks, name: str) -> int:
    """The rows of a weight of which anything remains."""
    return sum(bool(row.any()) for row in masks[name]) if name in masks else -1


@pytest.mark.parametrize("allocation", ["global", "uniform"])
@pytest.mark.parametrize("granularity", ["channel", "filter"])
@pytest.mark.parametrize("criterion", ["magnitude", "filter_norm"])
@pytest.mark.parametrize("net", NETWORKS)
def test_channels_are_counted_to_the_whole_channel(
    net: str, criterion: str, granularity: str, allocation: str
) -> None:
    overrides = NETWORKS[net][1]
    fields: dict[str, Any] = {
        "granularity": {"name": granularity},
        "allocation": {"name": allocation},
    }
    targets = (0.2, 0.4) if net == "transformer" else (0.7, 0.8)
    recipe = write(*targets, criterion=criterion, overrides=overrides, **fields)
    for sparsity, masks in zip(recipe.targets.values, run(net, recipe), strict=True):
        for name, own in meant(net).items():
            rows = len(masks[name])
            assert count_rows(masks, name) == rows - round(own * rows)
        total = sum(list_weights(net).values())
        kept = sum(count(masks, name) for name in list_weights(net))
        assert kept <= (1 - sparsity) * total + 1e-6
        assert kept > (1 - sparsity) * total - 0.1 * total


@pytest.mark.parametrize("allocation", ["global", "erk"])
def test_rounds_before_the_first_target_lead_there(allocation: str) -> None:
    """Of a layer as large a part of its way is done as of the network's; targets change nothing."""
    overrides = {"layer3.0.conv1": 0.5, "conv1": 0.0}
    recipe = write(0.4, 0.7, overrides=overrides, allocation={"name": allocation})
    sizes = list_weights("resnet")
    rounds = run("resnet", recipe, 0.9, 0.7, 0.6, 0.5, 0.3)
    done = [0.25, 0.75, 1.0, 1.0, 1.0]
    for part, masks in zip(done, rounds, strict=True):
        for name in sizes:
            if name.startswith("layer3.0.conv1"):
                removed = part * round(0.5 * sizes[name])
                assert removed - 2 <= sizes[name] - count(masks, name) <= removed + 1e-6
        assert count(masks, "conv1.weight") == sizes["conv1.weight"]
    for earlier, later in pairwise(rounds):
        assert all(bool((later[name] <= earlier[name]).all()) for name in sizes)


def test_stages_of_a_criterion_lead_to_the_same_counts() -> None:
    recipe = write(0.9, criterion="synflow", overrides={"features.11": 0.2})
    (masks,) = run("vgg", recipe)
    size = list_weights("vgg")["features.11.weight"]
    assert count(masks, "features.11.weight") == size - round(0.2 * size)


@pytest.mark.parametrize("granularity", ["weight", "block", "channel", "filter"])
def test_what_is_not_included_or_is_excluded_is_never_touched(granularity: str) -> None:
    recipe = write(
        0.3,
        include=["features.*", "classifier"],
        exclude=["features.0.weight", {"kind": "Linear"}],
        granularity={"name": granularity},
    )
    before = build("vgg").state_dict()
    (masks,) = run("vgg", recipe)
    touched = {name for name, mask in masks.items() if mask.dim() > 1}
    assert touched == set(list_weights("vgg")) - {"features.0.weight", "classifier.weight"}
    assert before["features.0.weight"].any()
    only = write(0.3, include=["features.1?.weight"], granularity={"name": granularity})
    (masks,) = run("vgg", only)
    touched = {name for name, mask in masks.items() if mask.dim() > 1}
    assert touched == {"features.11.weight", "features.15.weight", "features.18.weight"}


def refuse(net: str, recipe: Recipe) -> SecateurError:
    with pytest.raises((BudgetError, ParameterError)) as caught:
        run(net, recipe)
    return caught.value


def test_targets_beyond_reach_are_refused_with_what_can_be_reached() -> None:
    error = refuse("mlp", write(0.2, overrides={"fc1": 0.75}))
    assert isinstance(error, BudgetError)
    assert error.pointer == "/targets/sparsity"
    # 1,536 of 2,048 weights of 2,720 are removed; 671 of the other 672 may be.
    assert "a sparsity from 0.564706 to 0.811397 can be reached" in error.message
    error = refuse("mlp", write(0.9, overrides={"fc1": 0.75}))
    assert "from 0.564706 to 0.811397" in error.message
    error = refuse("mlp", write(0.6, overrides={"*": 0.5}))
    assert "leave no other layer, and the sparsity is 0.5" in error.message
    run("mlp", write(0.5, overrides={"*": 0.5}))
    for granularity in ("channel", "filter"):
        fields: dict[str, Any] = {"granularity": {"name": granularity}}
        error = refuse(
            "vgg", write(0.2, overrides={"features.25": 0.9, "features.22": 0.9}, **fields)
        )
        assert "with the overrides" in error.message
        assert error.pointer == "/targets/sparsity"


def test_patterns_without_meaning_or_with_two_are_refused() -> None:
    names = list_weights("mlp")
    with pytest.raises(
        ParameterError, match=r"matches no prunable weight.*the nearest: fc1"
    ) as caught:
        resolve_overrides({"fc1/*": 0.5}, names)
    assert caught.value.pointer == "/overrides/fc1~1*"
    with pytest.raises(ParameterError, match=r"fc1\.weight is meant by 'fc\?' and by 'fc1'"):
        resolve_overrides({"fc?": 0.5, "fc1": 0.5}, names)
    model = build("mlp")
    with pytest.raises(ParameterError, match="the kind of no layer") as caught:
        find_prunable(model, include=[*write(0.5, include=[{"kind": "linear"}]).include])
    assert caught.value.pointer == "/include/0"
    assert "the nearest: Linear" in caught.value.message
    assert list(find_prunable(model, ["FC1"[::-1].lower()[::-1]])) == ["fc2.weight", "fc3.weight"]
    with pytest.raises(ParameterError, match="'FC1' is not a prunable weight"):
        find_prunable(model, ["FC1"])


@pytest.mark.parametrize("granularity", ["channel", "filter"])
def test_layers_that_keep_their_channels_are_refused_by_name(granularity: str) -> None:
    fields: dict[str, Any] = {"granularity": {"name": granularity}}
    error = refuse("mlp", write(0.5, overrides={"fc3": 0.5}, **fields))
    assert "fc3.weight" in error.message
    assert error.pointer == "/overrides/fc3"


def test_coupled_layers_with_different_overrides_are_refused_by_name() -> None:
    overrides = {"layer3.0.conv2": 0.5, "layer3.0.shortcut.0": 0.25}
    error = refuse("resnet", write(0.5, overrides=overrides, granularity={"name": "channel"}))
    assert "layer3.0.conv2.weight and layer3.0.shortcut.0.weight write the same" in error.message
    assert error.pointer == "/overrides/layer3.0.shortcut.0"
    apart = write(0.5, overrides=overrides, granularity={"name": "filter"})
    (masks,) = run("resnet", apart)
    assert count_rows(masks, "layer3.0.conv2.weight") == 8


def test_drawn_channels_cannot_be_counted() -> None:
    fields: dict[str, Any] = {"granularity": {"name": "channel"}, "sparsifier": {"name": "sample"}}
    error = refuse("mlp", write(0.5, overrides={"fc1": 0.5}, **fields))
    assert error.pointer == "/overrides"
    assert "random" in error.message


def test_a_rehearsal_refuses_what_the_job_would() -> None:
    model, (shape, _) = build("mlp"), NETWORKS["mlp"]
    assert rehearse(model, write(0.6, overrides={"fc1": 0.75}), shape) == []
    with pytest.raises(BudgetError, match="can be reached"):
        rehearse(model, write(0.2, overrides={"fc1": 0.75}), shape)


def test_zeros_beyond_an_override_are_refused() -> None:
    weights = dict(find_prunable(build("mlp")))
    recipe = write(0.5, overrides={"fc2": 0.25})
    check_overrides(recipe, weights, {"fc2.weight": 128})
    with pytest.raises(BudgetError, match=r"fc2\.weight comes with 129 of 512") as caught:
        check_overrides(recipe, weights, {"fc2.weight": 129})
    assert caught.value.pointer == "/overrides/fc2"
    with pytest.raises(BudgetError, match=r"nothing is removed for the target 0\.5"):
        check_overrides(recipe, weights, {"fc1.weight": 1800})
    with pytest.raises(BudgetError, match="leaves none of 512"):
        check_overrides(write(0.5, overrides={"fc2": 0.9999}), weights, {})
