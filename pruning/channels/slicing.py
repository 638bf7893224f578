"""The parts of a layer's tensors that belong to some of its channels: to mask, to cut out, and to
put back.

Channels are given by ascending indices, `inputs` along what a layer reads and `outputs` along what
it writes.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pruning.architectures._channel_map import ChannelMap
from pruning.networks.layers import count_groups

Slices: TypeAlias = dict[str, tuple[Tensor, ...]]
"""By name of a tensor, the indices to its part: `tensor[slices[name]]`, shaped as in the smaller
layer.
"""
TENSORS = ("weight", "bias", "running_mean", "running_var")


def count_channels(module: nn.Module) -> tuple[int, int] | None:
    """How many channels a module reads and writes; None for one that cannot lose any."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, nn.Conv2d):
        return module.in_channels, module.out_channels
    if isinstance(module, _BatchNorm):
        return module.num_features, module.num_features
    if isinstance(module, ChannelMap):
        return module.channels_in, len(module.sources)
    return None


def slice_channels(module: nn.Module, inputs: Tensor, outputs: Tensor) -> Slices:
    """The parts of the module's own tensors that belong to these channels.

    Of a grouped convolution, each group that remains must keep as many channels as the others.

    >>> conv = nn.Conv2d(4, 4, 1, groups=2)
    >>> found = slice_channels(conv, torch.tensor([1, 3]), torch.tensor([0, 2]))
    >>> conv.weight[found["weight"]].shape
    torch.Size([2, 1, 1, 1])
    """
    if isinstance(module, nn.Linear | nn.Conv2d):
        found: Slices = {"weight": (outputs[:, None], _columns(module, inputs, outputs))}
        return found if module.bias is None else found | {"bias": (outputs,)}
    if isinstance(module, _BatchNorm):
        return {name: (outputs,) for name in TENSORS if getattr(module, name) is not None}
    return {}


def _columns(module: nn.Linear | nn.Conv2d, inputs: Tensor, outputs: Tensor) -> Tensor:
    """Along the second dimension of the weight, (1, columns) or one row for each output, (outputs,
    columns).
    """
    if count_groups(module) == 1:
        return inputs[None]
    assert isinstance(module, nn.Conv2d)
    width, height = module.in_channels // module.groups, module.out_channels // module.groups
    remaining, counts = torch.unique(inputs // width, return_counts=True)
    assert len(set(counts.tolist())) == 1, "groups of unequal size"
    assert torch.equal(remaining, torch.unique(outputs // height)), (
        "a group without inputs or outputs"
    )
    return (inputs % width).reshape(len(remaining), -1)[
        torch.searchsorted(remaining, outputs // height)
    ]


def shrink_(module: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
    """Cut a module down to these channels, in place."""
    if isinstance(module, ChannelMap):
        module.select_channels(inputs, outputs)
        return
    found = slice_channels(module, inputs, outputs)
    for name, index in found.items():
        _assign_(module, name, getattr(module, name).detach()[index])
    columns = found["weight"][1].shape[1] if isinstance(module, nn.Conv2d) else 1
    _note_sizes_(module, len(inputs), len(outputs), len(inputs) // columns)


def resize_(module: nn.Module, inputs: int, outputs: int, groups: int = 1) -> None:
    """Give a module tensors of other sizes, all zero, in place."""
    for name in TENSORS:
        tensor = getattr(module, name, None)
        if tensor is not None:
            shape = (
                (outputs, inputs // groups, *tensor.shape[2:]) if tensor.dim() > 1 else (outputs,)
            )
            _assign_(module, name, tensor.new_zeros(shape))
    _note_sizes_(module, inputs, outputs, groups)


def _assign_(module: nn.Module, name: str, value: Tensor) -> None:
    old = getattr(module, name)
    setattr(
        module,
        name,
        nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value,
    )


def _note_sizes_(module: nn.Module, inputs: int, outputs: int, groups: int) -> None:
    if isinstance(module, nn.Linear):
        module.in_features, module.out_features = inputs, outputs
    elif isinstance(module, nn.Conv2d):
        module.in_channels, module.out_channels, module.groups = inputs, outputs, groups
    elif isinstance(module, _BatchNorm):
        module.num_features = outputs
