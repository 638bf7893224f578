"""Which channels are coupled, and which cannot be removed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pruning.channels.compaction import (
    build_compact,
)
from pruning.channels.graph import ChannelGraph
from pruning.errors import (
    StructureError,
)
from pruning.masks import (
    apply_masks_,
    build_full_masks,
    density,
    find_prunable,
)
from tests.support import cases
from tests.support.channel_nets import (
    Several,
    Shuffled,
    build,
    conv,
    images,
    select,
)


@pytest.mark.parametrize(
    ("net", "groups"),
    [
        (
            "resnet_a",
            {
                "conv1": 8,
                "layer1.0.conv1": 8,
                "layer2.0.conv1": 16,
                "layer2.0.conv2": 16,
                "layer3.0.conv1": 32,
                "layer3.0.conv2": 32,
            },
        ),
        (
            "resnet_b",
            {
                "conv1": 8,
                "layer1.0.conv1": 8,
                "layer2.0.conv1": 16,
                "layer2.0.conv2": 16,
                "layer3.0.conv1": 32,
                "layer3.0.conv2": 32,
            },
        ),
        ("lenet", {"fc1": 300, "fc2": 100}),
        ("grouped", {"0": 4, "2": 2, "4": 2}),
        ("whole_groups", {"0": 4}),
        ("separable", {"0": 6, "6": 5}),
        ("concatenated", {"a": 3, "b": 4, "mix": 4}),
        ("residual", {"stem": 5}),
        ("gated", {"conv": 6, "down": 3}),
        ("softplus_flat", {"0": 6, "3": 5}),
    ],
)
def test_groups_are_the_widths_of_the_network(net: str, groups: dict[str, int]) -> None:
    model, shape = build(net)
    graph = ChannelGraph.of(model, shape, find_prunable(model))
    assert {group.name: group.size for group in graph.removable} == groups
    assert sum(group.size for group in graph.groups) == graph.size
    spans = [range(group.start, group.start + group.size) for group in graph.groups]
    assert [number for span in spans for number in span] == list(range(graph.size))


def test_selection_keeps_the_weights_of_channels_that_carry_values() -> None:
    model, shape = build("resnet_a")
    scores = {name: torch.ones_like(weight) for name, weight in find_prunable(model).items()}
    scores["layer2.0.conv2.weight"][4:12] = 0.1  # all that the first stage is carried into
    masks = select(model, shape, 0.9, scores=scores).masks
    graph = ChannelGraph.of(model, shape, find_prunable(model))
    assert masks["layer2.0.conv2.weight"][4:12].flatten(1).any(1).all()
    assert density(masks) <= 0.9
    again = build_full_masks(find_prunable(model)) | graph.masks(model, graph.kept(model, masks))
    assert all(torch.equal(again[name], masks[name]) for name in masks)


def test_shortcuts_carry_values_through_removed_channels() -> None:
    """1 of the first stage passes unweighted through 1 + 4 of the second into 1 + 4 + 8 of the
    third: it stays with both.
    """
    model, shape = build("resnet_a")
    graph = ChannelGraph.of(model, shape, find_prunable(model))
    start = {group.name: group.start for group in graph.groups}
    first, second, third = (
        start["conv1"] + 1,
        start["layer2.0.conv2"] + 5,
        start["layer3.0.conv2"] + 13,
    )
    keep = torch.ones(graph.size, dtype=torch.bool)
    keep[second] = False
    assert bool(graph.closed(keep).all())
    for gone in (first, third):
        fewer = keep.clone()
        fewer[gone] = False
        assert torch.equal(graph.closed(fewer), fewer)
    masks = build_full_masks(find_prunable(model)) | graph.masks(model, keep)
    apply_masks_(model, masks)
    x = images(shape)
    with torch.no_grad():
        torch.testing.assert_close(
            build_compact(model, masks, shape)(x), model(x), rtol=1e-10, atol=1e-10
        )


def test_what_changes_the_function_is_not_removable() -> None:
    normalized = conv(nn.Conv2d(1, 4, 1), nn.GroupNorm(2, 4), nn.Conv2d(4, 3, 1), features=12)
    graph = ChannelGraph.of(normalized, (1, 2, 2), find_prunable(normalized))
    assert {group.name: group.reason for group in graph.groups if group.name in ("0", "2")} == {
        "0": "a GroupNorm uses them",
        "2": None,
    }
    shared = conv(nn.Conv2d(1, 4, 1), nn.Softmax(1), nn.Conv2d(4, 3, 1), features=12)
    graph = ChannelGraph.of(shared, (1, 2, 2), find_prunable(shared))
    assert {group.name: group.reason for group in graph.groups if group.name in ("0", "2")} == {
        "0": "removing some would change what remains",
        "2": None,
    }
    model = Shuffled()
    graph = ChannelGraph.of(model, (2, 2, 2), find_prunable(model))
    assert [group.name for group in graph.removable] == ["second"]


def test_channels_coupled_to_the_image_stay() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(2, 2, 1), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((x + self.conv(x)).flatten(1))

    graph = ChannelGraph.of(Skip(), (2, 2, 2), {"conv.weight", "head.weight"})
    assert graph.removable == ()
    assert graph.groups[0].reason == "they are the image's channels"


@pytest.mark.parametrize("broken", ["several", "shape", "copy"])
def test_a_network_that_cannot_be_traced_is_refused(broken: str) -> None:
    model: nn.Module = Several() if broken == "several" else cases.mlp()
    if broken == "copy":
        model.register_buffer("derived", model.get_parameter("1.weight") * 2)
    with pytest.raises(StructureError, match=r"cannot be (traced|copied)"):
        ChannelGraph.of(model, (1, 5, 5) if broken == "shape" else (1, 4, 4), find_prunable(model))
