"""The parts of a layer's tensors that belong to some of its channels, to mask, cut out or put back.

Channels are given by ascending indices, `inputs` among the channels that a layer reads and
`outputs` among those it writes.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pruning.architectures._attention import PackedProjection
from pruning.architectures._attention_heads import AttentionHeads
from pruning.architectures._channel_map import ChannelMap
from pruning.networks.layers import count_groups

Slices: TypeAlias = dict[str, tuple[Tensor, ...]]
"""The indices to the part of a tensor, by its name: `tensor[slices[name]]` is shaped as in the
smaller layer.
"""
TENSORS = ("weight", "bias", "running_mean", "running_var")
"""The tensors of a layer that have a dimension of channels."""


def count_channels(module: nn.Module) -> tuple[int, int] | None:
    """The numbers of channels a module reads and writes; None for one that cannot lose any."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, nn.Conv2d):
        return module.in_channels, module.out_channels
    if isinstance(module, _BatchNorm):
        return module.num_features, module.num_features
    if isinstance(module, ChannelMap):
        return module.channels_in, len(module.sources)
    if isinstance(module, AttentionHeads):
        return module.channels
    return None


def slice_channels(module: nn.Module, inputs: Tensor, outputs: Tensor) -> Slices:
    """The parts of the module's own tensors that belong to these channels.

    The groups of a grouped convolution that remain must keep equally many channels.

    >>> conv = nn.Conv2d(4, 4, 1, groups=2)
    >>> slices = slice_channels(conv, torch.tensor([1, 3]), torch.tensor([0, 2]))
    >>> conv.weight[slices["weight"]].shape
    torch.Size([2, 1, 1, 1])
    """
    if isinstance(module, nn.Linear | nn.Conv2d):
        columns = _select_columns(module, inputs, outputs)
        slices: Slices = {"weight": (outputs[:, None], columns)}
        if module.bias is not None:
            slices["bias"] = (outputs,)
        return slices
    if isinstance(module, _BatchNorm):
        return {name: (outputs,) for name in TENSORS if getattr(module, name) is not None}
    return {}


def _select_columns(module: nn.Linear | nn.Conv2d, inputs: Tensor, outputs: Tensor) -> Tensor:
    """The indices along the second dimension of the weight: (1, columns), or with groups one row
    for each output, (outputs, columns).
    """
    if count_groups(module) == 1:
        return inputs[None]
    assert isinstance(module, nn.Conv2d)
    inputs_per_group = module.in_channels // module.groups
    outputs_per_group = module.out_channels // module.groups
    output_groups = outputs // outputs_per_group
    remaining, counts = torch.unique(inputs // inputs_per_group, return_counts=True)
    assert len(set(counts.tolist())) == 1, "groups of unequal size"
    assert torch.equal(remaining, torch.unique(output_groups)), "a group without inputs or outputs"
    # A column of a grouped weight is a position in the group that the output belongs to.
    columns_of_group = (inputs % inputs_per_group).reshape(len(remaining), -1)
    return columns_of_group[torch.searchsorted(remaining, output_groups)]


def shrink_(module: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
    """Cut a module down to these channels, in place."""
    if isinstance(module, ChannelMap):
        module.select_channels(inputs, outputs)
        return
    if isinstance(module, AttentionHeads):
        module.select_(outputs)
        return
    slices = slice_channels(module, inputs, outputs)
    for name, index in slices.items():
        _assign_(module, name, getattr(module, name).detach()[index])
    columns = slices["weight"][1].shape[1] if isinstance(module, nn.Conv2d) else 1
    _note_sizes_(module, len(inputs), len(outputs), len(inputs) // columns)


def resize_(module: nn.Module, inputs: int, outputs: int, groups: int = 1) -> None:
    """Give a module tensors of other sizes, all zero, in place."""
    for name in TENSORS:
        tensor = getattr(module, name, None)
        if tensor is None:
            continue
        shape: tuple[int, ...] = (outputs,)
        if tensor.dim() > 1:
            shape = (outputs, inputs // groups, *tensor.shape[2:])
        _assign_(module, name, tensor.new_zeros(shape))
    _note_sizes_(module, inputs, outputs, groups)


def _assign_(module: nn.Module, name: str, value: Tensor) -> None:
    old = getattr(module, name)
    if isinstance(old, nn.Parameter):
        value = nn.Parameter(value, old.requires_grad)
    if isinstance(module, PackedProjection):
        module, name = module.locate(name)
    setattr(module, name, value)


def _note_sizes_(module: nn.Module, inputs: int, outputs: int, groups: int) -> None:
    if isinstance(module, nn.Linear):
        module.in_features, module.out_features = inputs, outputs
    elif isinstance(module, nn.Conv2d):
        module.in_channels, module.out_channels, module.groups = inputs, outputs, groups
    elif isinstance(module, _BatchNorm):
        module.num_features = outputs
