"""Which channels are selected: the density, the allocation and the importance of channels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pruning.allocations import allocations
from pruning.channels.compaction import (
    build_compact,
)
from pruning.channels.graph import ChannelGraph
from pruning.errors import (
    BudgetError,
    ParameterError,
    ScoreError,
)
from pruning.granularities.channel import Channel
from pruning.masks import (
    apply_masks_,
    build_full_masks,
    density,
    find_prunable,
    select_weight_masks,
)
from pruning.networks.loading import load_model
from pruning.sparsifiers import sparsifiers
from pruning.types import Budget, Keeps, Masks, Scores, Selection
from tests.support import cases, oracles
from tests.support.channel_nets import (
    build,
    every_net,
    images,
    noise,
    pruned,
    select,
    widths,
)


@every_net
@pytest.mark.parametrize(("allocation", "target"), [("global", 0.5), ("uniform", 0.85)])
def test_density_is_reached_as_nearly_as_channels_allow(
    net: str, allocation: str, target: float
) -> None:
    """At or below the target; one channel more, wherever it is among those removed, would not all
    fit below it.
    """
    model, shape = build(net)
    masks = select(model, shape, target, allocation=allocation).masks
    assert density(masks) <= target
    graph = ChannelGraph.of(model, shape, select_weight_masks(masks))
    keep, total = (
        graph.kept(model, masks),
        sum(mask.numel() for mask in select_weight_masks(masks).values()),
    )
    worth = []
    for group in graph.removable:
        assert keep[group.span].any()
        for channel in range(group.start, group.start + group.size):
            if not keep[channel]:
                more = keep.clone()
                more[channel] = True
                grown = build_full_masks(find_prunable(model)) | graph.masks(
                    model, graph.closed(more)
                )
                worth.append(density(grown) - density(masks))
    several = (
        1 if allocation == "global" else 2
    )  # one channel more may come as two here for one there
    assert target - density(masks) <= several * max(worth) + 1 / total


@pytest.mark.parametrize("net", ["resnet_a", "resnet_b", "grouped", "concatenated"])
@pytest.mark.parametrize("allocation", ["global", "uniform"])
def test_three_rounds_are_nested(net: str, allocation: str) -> None:
    model, shape = build(net)
    masks = build_full_masks(find_prunable(model))
    for step, target in enumerate((0.7, 0.45, 0.3)):
        scores = {
            name: score.masked_fill(~masks[name], -math.inf)
            for name, score in noise(model, seed=step).items()
        }
        after = select(
            model, shape, target, masks=masks, scores=scores, allocation=allocation
        ).masks
        assert density(after) <= target
        assert set(after) >= set(masks)
        assert not any((after[name] & ~masks[name]).any() for name in masks)
        apply_masks_(model, after)
        with torch.no_grad():
            torch.testing.assert_close(
                build_compact(model, after, shape)(images(shape)),
                model(images(shape)),
                rtol=1e-10,
                atol=1e-10,
            )
        masks = after


@pytest.mark.parametrize("target", [0.4, 0.01])
def test_what_is_removed_stays_removed_though_the_rest_scores_below_zero(target: float) -> None:
    model, masks, shape = pruned("resnet_b", 0.7)
    scores = {
        name: (score - 2).masked_fill(~masks[name], -math.inf)
        for name, score in noise(model, seed=1).items()
    }
    after = select(model, shape, target, masks=masks, scores=scores).masks
    before, kept = widths(model, masks, shape), widths(model, after, shape)
    assert density(after) <= target
    assert all(0 < kept[name] <= before[name] for name in kept)
    apply_masks_(model, after)
    remaining = {name: int(after[name].sum()) for name in select_weight_masks(after)}
    assert {
        name: weight.numel()
        for name, weight in find_prunable(build_compact(model, after, shape)).items()
    } == remaining


def test_a_network_that_is_sparse_enough_stays_as_it_is() -> None:
    model, masks, shape = pruned("resnet_b", 0.4)
    again = select(model, shape, 0.4, masks=masks).masks
    assert again.keys() == masks.keys()
    assert all(torch.equal(again[name], masks[name]) for name in masks)


@pytest.mark.parametrize("target", [0.8, 0.5, 0.2])
def test_uniform_keeps_the_same_fraction_of_every_group(target: float) -> None:
    model, masks, shape = pruned("resnet_b", target, allocation="uniform")
    graph = ChannelGraph.of(model, shape, select_weight_masks(masks))
    kept = widths(model, masks, shape)
    fractions = [kept[group.name] / group.size for group in graph.removable]
    overall = sum(kept.values()) / sum(group.size for group in graph.removable)
    assert all(abs(kept[group.name] - overall * group.size) <= 1 for group in graph.removable), (
        fractions
    )


def test_global_compares_groups_by_importance_relative_to_their_mean() -> None:
    """The groups (1, 1, 1, 5) and (100, 100, 100, 500) both lose the small channels; unnormalised,
    the first would lose all but one.
    """
    model = load_model("mlp", hidden=[4, 4], channels=1, height=2, width=2, classes=2).double()
    scores = {name: torch.ones_like(weight) for name, weight in find_prunable(model).items()}
    scores["fc1.weight"][3], scores["fc2.weight"][3] = 5, 5
    scores["fc2.weight"] *= 100
    normalized = select(model, (1, 2, 2), 0.2, scores=scores).masks
    assert widths(model, normalized, (1, 2, 2)) == {"fc1": 1, "fc2": 1}
    assert normalized["fc1.weight"][3].all()
    assert normalized["fc2.weight"][3, 3]
    absolute = select(model, (1, 2, 2), 0.5, scores=scores, normalize=False).masks
    assert widths(model, absolute, (1, 2, 2)) == {"fc1": 1, "fc2": 4}


def test_importance_is_the_mean_over_the_layers_that_write_a_channel() -> None:
    """stem (5, 2, 3, 3) and twice (5, 5, 1, 1) are coupled: i is worth (sum of stem's filter + sum
    of twice's) / 2.
    """
    model, shape = build("residual")
    scores = noise(model)
    importance = _importance(model, shape, scores)
    expected = (
        scores["stem.weight"].double().flatten(1).sum(1)
        + scores["twice.weight"].double().flatten(1).sum(1)
    ) / 2
    torch.testing.assert_close(importance["stem"], expected)
    filters = {
        name: torch.rand(len(weight), *[1] * (weight.dim() - 1))
        for name, weight in find_prunable(model).items()
    }
    torch.testing.assert_close(
        _importance(model, shape, filters)["stem"],
        (filters["stem.weight"] + filters["twice.weight"]).double().flatten() / 2,
    )
    inputs = {
        name: torch.rand(1, *weight.shape[1:2], *[1] * (weight.dim() - 2))
        for name, weight in find_prunable(model).items()
    }
    head = inputs["head.weight"].reshape(5, 16).mean(1)  # each channel is spread over 16 inputs
    torch.testing.assert_close(
        _importance(model, shape, inputs)["stem"],
        (inputs["twice.weight"].flatten() + head).double() / 2,
    )


def test_what_is_removed_has_no_importance() -> None:
    model, masks, shape = pruned("residual")
    keep = masks["stem.bias"]
    assert torch.equal(_importance(model, shape, noise(model), masks)["stem"] > -math.inf, keep)
    negative = {name: -score for name, score in noise(model).items()}
    assert torch.equal(_importance(model, shape, negative, masks)["stem"] > -math.inf, keep)


def _importance(
    model: nn.Module, shape: tuple[int, int, int], scores: Scores, masks: Masks | None = None
) -> Scores:
    graph = ChannelGraph.of(model, shape, find_prunable(model))
    masks = masks or build_full_masks(find_prunable(model))
    selection = Selection(
        model=model,
        weights=find_prunable(model),
        scores=scores,
        masks=masks,
        density=0.5,
        allocation=allocations.create("global"),
        sparsifier=sparsifiers.create("top_k"),
        generator=torch.Generator(),
        shape=lambda: shape,
    )
    return Channel(normalize=False).compute_importance(graph, selection, graph.kept(model, masks))


def test_scores_of_input_channels_repeat_for_every_group() -> None:
    model, shape = build("grouped")
    inputs = {
        name: torch.rand(1, *weight.shape[1:2], *[1] * (weight.dim() - 2))
        for name, weight in find_prunable(model).items()
    }
    graph = ChannelGraph.of(model, shape, find_prunable(model))
    assert [group.size for group in graph.removable] == [
        4,
        2,
        2,
    ]  # 8 in 2 groups, 12 in 2 and in 3, 6 in 3
    torch.testing.assert_close(
        _importance(model, shape, inputs)["0"], inputs["2.weight"].double().flatten()
    )


def test_scores_that_tell_no_channels_apart_are_refused() -> None:
    model, shape = build("conv_net")
    with pytest.raises(
        ScoreError, match="scores none of the layers to which the channels of 0 belong"
    ):
        select(
            model,
            shape,
            0.5,
            scores={
                name: torch.ones([1] * weight.dim())
                for name, weight in find_prunable(model).items()
            },
        )


def test_scores_of_zero_and_below_are_ranked() -> None:
    model, shape = build("conv_net")
    for scores in (
        {name: torch.zeros_like(weight) for name, weight in find_prunable(model).items()},
        {name: -score for name, score in noise(model).items()},
    ):
        masks = select(model, shape, 0.5, scores=scores).masks
        assert 0 < density(masks) <= 0.5
    low = {name: -torch.ones_like(weight) for name, weight in find_prunable(model).items()}
    low["0.weight"][2] *= 0.5
    assert select(model, shape, 0.3, scores=low).masks["0.weight"].flatten(1).any(1).tolist() == [
        False,
        False,
        True,
        False,
    ]


def test_a_density_below_one_channel_of_each_group_is_refused() -> None:
    model, shape = build("mlp")  # 32 x 9, 9 x 7, 7 x 3; with one channel each 32 + 1 + 3
    with pytest.raises(
        BudgetError,
        match=r"density 0\.01 cannot be reached .* with one of each group it is 0\.09677",
    ):
        select(model, shape, 0.01)
    assert density(select(model, shape, 36 / 372).masks) == 36 / 372


@pytest.mark.parametrize("case", ["depthwise", "tied", "frozen", "one_weight"])
def test_networks_without_removable_channels_are_refused_with_the_reason(case: str) -> None:
    model, _ = cases.awkward(case)
    reason = {
        "depthwise": "image's channels",
        "tied": "shares a parameter",
        "frozen": "is frozen",
        "one_weight": "only one",
    }[case]
    with pytest.raises(BudgetError, match=rf"it is 1 \(.* layers are left dense; .*{reason}"):
        select(model, cases.AWKWARD[case][1], 0.5)


def test_excluded_layers_are_left_untouched() -> None:
    model, shape = build("resnet_b")
    excluded = ("layer2.0.conv1.weight", "linear.weight")
    selected = select(model, shape, 0.7, exclude=excluded)
    assert not set(excluded) & set(selected.masks)
    apply_masks_(model, selected.masks)
    small = build_compact(model, selected.masks, shape)
    for name in excluded:
        assert torch.equal(small.get_parameter(name), model.get_parameter(name))
    kept = widths(model, selected.masks, shape)
    assert set(kept) == {"layer1.0.conv1", "layer3.0.conv1", "layer2.0.conv2"}
    assert selected.left_dense == {
        "conv1.weight": "its inputs must stay, for they are the image's channels; so must its "
        "outputs, for layer2.0.conv1 is excluded"
    }


def test_layers_without_a_side_to_prune_are_named() -> None:
    model, shape = build("mlp")
    selected = select(model, shape, 0.9, exclude=("fc3.weight",))
    assert selected.left_dense == {}
    graph = ChannelGraph.of(model, shape, {"fc1.weight", "fc3.weight"})
    assert graph.left_dense(model, ["fc1.weight"]) == {
        "fc1.weight": "its inputs must stay, for they are the image's channels; so must its "
        "outputs, for fc2 is excluded"
    }


def test_a_frozen_bias_keeps_only_what_its_layer_writes() -> None:
    model, shape = build("mlp")
    model.get_parameter("fc2.bias").requires_grad_(False)
    names = set(find_prunable(model))
    assert [group.name for group in ChannelGraph.of(model, shape, names).removable] == ["fc1"]
    assert ChannelGraph.of(model, shape, names - {"fc2.weight"}).removable == ()


def test_an_allocation_by_shape_is_refused() -> None:
    class ByShape:
        def allocate(self, scores: Scores, budget: Budget) -> Keeps:
            return {name: math.prod(budget.shapes[name]) for name in scores}

    model, shape = build("mlp")
    with pytest.raises(ParameterError, match="by their shapes"):
        select(model, shape, 0.5, allocation=ByShape())


@every_net
def test_selection_is_deterministic_and_changes_nothing(net: str) -> None:
    model, shape = build(net)
    model.train()
    scores, masks = noise(model), build_full_masks(find_prunable(model))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes, state = oracles.module_modes(model), torch.get_rng_state()
    first, second = (select(model, shape, 0.5, scores=scores, masks=masks).masks for _ in range(2))
    build_compact(model, first, shape)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert oracles.module_modes(model) == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(bool(mask.all()) for mask in masks.values())
