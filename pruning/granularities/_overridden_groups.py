"""The number of channels that remain of coupled groups whose layers have overrides."""

from __future__ import annotations

import torch
from torch import Tensor

from pruning.channels.graph import ChannelGraph, Group
from pruning.errors import ParameterError
from pruning.networks.layers import name_layer
from pruning.types import Keeps, Override, Selection


def count_overridden(graph: ChannelGraph, selection: Selection, before: Tensor) -> Keeps:
    """Count the channels that remain of each group that a layer with an override writes; `before`
    marks those that remain now.

    Raises `ParameterError` where a layer keeps its channels whatever is asked of it, and where two
    layers of a group have different overrides.
    """
    first_of: dict[str, tuple[str, Override]] = {}
    keeps: Keeps = {}
    for name, override in selection.overrides.items():
        group = _find_group(graph, name)
        if group is None or group.reason is not None:
            if override.sparsity == 0:
                continue
            reasons = graph.left_dense(selection.model, [name])
            reason = reasons.get(name, "") if group is None else group.reason
            raise ParameterError(
                f"overrides: no channel that {name} writes can be removed: {reason}",
                pointer=override.pointer,
            )
        first, other = first_of.setdefault(group.name, (name, override))
        if other.sparsity != override.sparsity:
            raise ParameterError(
                f"overrides: {first} and {name} write the same channels, which leave both or none; "
                f"{other.sparsity:g} is asked of one and {override.sparsity:g} of the other",
                pointer=override.pointer,
            )
        alive = int(before[group.span].count_nonzero())
        keeps[group.name] = override.count(group.size, alive, ahead=True)
    return keeps


def _find_group(graph: ChannelGraph, name: str) -> Group | None:
    """The group of the channels that the layer of a weight writes; None for one that is unseen."""
    outputs = graph.outputs.get(name_layer(name))
    if outputs is None or not len(outputs):
        return None
    channel = int(torch.as_tensor(outputs)[0])
    return next(
        group for group in graph.groups if group.start <= channel < group.start + group.size
    )
