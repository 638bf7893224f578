"""The smaller network that remains when channels are removed, and the way back."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from pruning.channels.compaction import (
    build_compact,
    expand_,
)
from pruning.masks import (
    apply_masks_,
    build_full_masks,
    find_prunable,
    select_weight_masks,
)
from pruning.networks.loading import load_model
from tests.support import cases, oracles
from tests.support.channel_nets import (
    build,
    every_net,
    images,
    pruned,
    select,
    widths,
)


@every_net
@pytest.mark.parametrize("allocation", ["global", "uniform"])
def test_the_smaller_network_computes_the_same(net: str, allocation: str) -> None:
    model, masks, shape = pruned(net, allocation=allocation)
    x = images(shape)
    small = build_compact(model, masks, shape)
    with torch.no_grad():
        torch.testing.assert_close(small(x), model(x), rtol=1e-10, atol=1e-10)
    remaining = {
        name: int(masks[name].sum()) if name in masks else parameter.numel()
        for name, parameter in model.named_parameters()
    }
    assert {name: parameter.numel() for name, parameter in small.named_parameters()} == remaining
    assert sum(remaining.values()) < sum(parameter.numel() for parameter in model.parameters())
    assert {name for name, mask in masks.items() if not mask.all()} >= {
        name for name, mask in masks.items() if mask.dim() == 1
    }


@every_net
def test_removed_channels_leave_nothing_behind(net: str) -> None:
    """A removed row has a masked bias and BatchNorm; the masks of a layer's weight are the product
    of rows and columns.
    """
    model, masks, _ = pruned(net)
    for name, mask in select_weight_masks(masks).items():
        layer = model.get_submodule(name.rpartition(".")[0])
        groups = getattr(layer, "groups", 1)
        by_group = mask.reshape(groups, len(mask) // groups, mask.shape[1], -1)
        rows, columns = by_group.any(3).any(2), by_group.any(3).any(1)
        assert torch.equal(by_group.all(3), rows[:, :, None] & columns[:, None])
        bias = name.replace("weight", "bias")
        if getattr(layer, "bias", None) is not None:
            assert torch.equal(
                masks.get(bias, torch.ones(len(mask), dtype=torch.bool)), rows.flatten()
            )


@every_net
def test_a_retrained_smaller_network_goes_back_into_the_full_one(net: str) -> None:
    """Two steps with momentum and weight decay, with BatchNorm in train mode, equal masked training
    of the full network.
    """
    model, masks, shape = pruned(net)
    small, other = build_compact(model, masks, shape), build(net)[0]
    for network in (model, small):
        network.train()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        for step in range(2):
            optimizer.zero_grad()
            F.cross_entropy(network(images(shape, seed=step)), torch.arange(6) % 3).backward()
            optimizer.step()
            if network is model:
                apply_masks_(network, masks)
        network.eval()
    before = {name: value.clone() for name, value in other.state_dict().items()}
    expand_(other, masks, small, shape)
    trained = dict(model.named_parameters())
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(parameter, trained[name], rtol=1e-10, atol=1e-10)
        if name in masks:
            assert not parameter[~masks[name]].any()
    x = images(shape)
    with torch.no_grad():
        assert torch.equal(build_compact(other, masks, shape)(x), small(x))
        torch.testing.assert_close(other(x), model(x), rtol=1e-9, atol=1e-9)
    assert any(not torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_of_batchnorm_the_statistics_of_remaining_channels_go_back() -> None:
    model, masks, shape = pruned("conv_net")
    keep = masks["1.weight"]
    assert keep.any()
    assert not keep.all()
    small = build_compact(model, masks, shape)
    before = model.get_buffer("1.running_mean").clone()
    small.get_buffer("1.running_mean").fill_(7.0)
    small.get_buffer("1.num_batches_tracked").fill_(5)
    expand_(model, masks, small, shape)
    assert torch.equal(
        model.get_buffer("1.running_mean"),
        torch.where(keep, torch.tensor(7.0, dtype=torch.float64), before),
    )
    assert int(model.get_buffer("1.num_batches_tracked")) == 5


def test_masks_that_remove_no_channel_change_nothing() -> None:
    model, shape = build("resnet_a")
    for masks in (build_full_masks(find_prunable(model)), cases.half_masks(model)):
        apply_masks_(model, masks)
        small = build_compact(model, masks, shape)
        assert small is not model
        assert torch.equal(small(images(shape)), model(images(shape)))


@pytest.mark.parametrize("left", ["fc1.weight", "fc1.bias", "fc2.weight", None])
def test_a_channel_goes_only_when_all_of_it_is_masked(left: str | None) -> None:
    """With a sigmoid, a masked row and bias still give 0.5 times the column."""
    model = load_model(
        "mlp", hidden=[3], channels=1, height=2, width=2, classes=2, activation="sigmoid"
    ).double()
    whole = build_full_masks(dict(model.named_parameters()))
    masks = copy.deepcopy(whole)
    masks["fc1.weight"][1], masks["fc1.bias"][1], masks["fc2.weight"][:, 1] = False, False, False
    if left is not None:
        masks[left] = whole[left]
    apply_masks_(model, masks)
    assert widths(model, masks, (1, 2, 2)) == {"fc1": 2 if left is None else 3}
    with torch.no_grad():
        torch.testing.assert_close(
            build_compact(model, masks, (1, 2, 2))(images((1, 2, 2))), model(images((1, 2, 2)))
        )


def test_modes_and_frozen_parameters_survive() -> None:
    model, shape = build("concatenated")
    model.train()
    model.get_submodule("norm").eval()
    model.get_parameter("head.bias").requires_grad_(False)
    masks = select(model, shape, 0.5).masks
    small = build_compact(model, masks, shape)
    assert oracles.module_modes(small) == oracles.module_modes(model)
    assert [p.requires_grad for p in small.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]


def test_a_model_in_half_precision_is_cut_as_it_is() -> None:
    model = cases.conv_net().bfloat16()
    masks = select(model, (1, 4, 4), 0.5).masks
    small = build_compact(model, masks, (1, 4, 4))
    assert {parameter.dtype for parameter in small.parameters()} == {torch.bfloat16}
