"""The layers of a network as a document: parameters, why not prunable, groups of channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pruning.channels.compaction import build_cut
from pruning.channels.graph import ChannelGraph
from pruning.errors import StructureError
from pruning.masks import count_parameters, explain_dense, find_prunable
from pruning.networks.layers import name_layer
from pruning.schemas.layers import ChannelGroup, LayerEntry, LayerTable
from pruning.types import Architecture, Shape

SIDE = 64
"""The side in pixels of the image with which channels are followed, for networks of any size."""
MOST_PARAMETERS = 2 * 10**8
"""The most parameters of a network whose channels are followed."""


def choose_shape(architecture: Architecture) -> Shape:
    """The shape of an image that a network takes.

    >>> from pruning.architectures import architectures
    >>> choose_shape(architectures.create("cifar_resnet"))
    (3, 64, 64)
    """
    channels, height, width = architecture.input_shape
    side = max(SIDE, getattr(architecture, "smallest", 1))
    return channels or 3, height or side, width or side


def tabulate_layers(
    architecture: Architecture, modules: Mapping[str, Any] | None = None
) -> LayerTable:
    """Every parameter of a network, and its channels where they can be followed; `modules` are the
    widths of an `arch.json`, where channels were removed.
    """
    outline = build_cut(architecture, modules)
    weights = find_prunable(outline)
    graph, note = None, None
    if count_parameters(outline) > MOST_PARAMETERS:
        note = f"channels are followed in networks of at most {MOST_PARAMETERS:,} parameters"
    else:
        try:
            graph = ChannelGraph.of(outline, choose_shape(architecture), list(weights))
        except StructureError as error:
            note = error.message
    groups = () if graph is None else list_groups(graph, weights)
    dense = {} if graph is None else graph.left_dense(outline, weights)
    coupled = {
        name: tuple(other for other in group.writers if other != name)
        for group in groups
        for name in group.writers
    }
    layers = tuple(
        LayerEntry(
            name=name,
            kind=type(outline.get_submodule(name.rpartition(".")[0])).__name__,
            shape=tuple(parameter.shape),
            parameters=parameter.numel(),
            prunable=name in weights,
            reason=None if name in weights else explain_dense(outline, name, ()),
            coupled=coupled.get(name, ()),
            channels_reason=dense.get(name),
        )
        for name, parameter in outline.named_parameters()
    )
    return LayerTable(layers=layers, groups=groups, note=note)


def list_groups(graph: ChannelGraph, weights: Mapping[str, Tensor]) -> tuple[ChannelGroup, ...]:
    """The groups of channels with the weights that write and read them.

    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    >>> graph = ChannelGraph.of(net, (1, 4, 4), ["0.weight", "2.weight"])
    >>> first = list_groups(graph, {"0.weight": torch.empty(0), "2.weight": torch.empty(0)})[0]
    >>> first.channels, first.writers, first.readers
    (2, ('0.weight',), ('2.weight',))
    """
    owners = {name_layer(name): name for name in weights}
    table = []
    for group in graph.groups:
        numbers = range(group.start, group.start + group.size)
        table.append(
            ChannelGroup(
                name=group.name,
                channels=group.size,
                writers=_list_using(graph.outputs, numbers, owners),
                readers=_list_using(graph.inputs, numbers, owners),
                reason=group.reason,
                head_size=group.head_size,
            )
        )
    return tuple(table)


def _list_using(
    channels: Mapping[str, Tensor], numbers: range, owners: Mapping[str, str]
) -> tuple[str, ...]:
    """The weights of the layers that have channels among these numbers."""
    return tuple(
        owners[name]
        for name, own in channels.items()
        if name in owners and bool(((own >= numbers.start) & (own < numbers.stop)).any())
    )
