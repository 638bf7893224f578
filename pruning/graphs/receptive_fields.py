"""What operations of a network do to maps: which outputs see which inputs, and which treat all
places alike.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from pruning.graphs.in_place import add_
from pruning.graphs.tracing import LIPSCHITZ, SILENT, SUMS

POINTWISE = {
    *LIPSCHITZ,
    *SUMS,
    *SILENT,
    nn.Identity,
    operator.mul,
    torch.mul,
    torch.relu_,
    add_,
    "mul",
    "clone",
    "contiguous",
}
"""The same for every place of the maps."""
SELECTING = {torch.index_select, "index_select"}

Box = tuple[int, int, int, int]
"""Top, bottom, left, right, as slices have them; those of an input may lie beyond its edges."""


@dataclass(frozen=True)
class Kernel:
    """A layer whose outputs each see a part of its input; sizes in two dimensions, with dilation.

    >>> kernel = Kernel((3, 3), (2, 2), (1, 1), 0.0, nn.Identity())
    >>> kernel.sees((3, 4, 0, 1), torch.Size((1, 1, 4, 4)))
    (1, 3, 0, 1)
    >>> kernel.needs((1, 3, 0, 1))
    (1, 6, -1, 2)
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    """Above and on the left."""
    outside: float
    """What is seen beyond the edges."""
    call: Callable[[Tensor], Tensor]
    """Without padding."""

    def sees(self, box: Box, shape: torch.Size) -> Box:
        """The box of outputs, of maps of this shape, that see something of a box; at least one in
        each dimension.
        """
        found: list[int] = []
        for first, end, size, stride, padding, most in zip(
            box[::2], box[1::2], self.size, self.stride, self.padding, shape[2:], strict=True
        ):
            begin = min(max(0, (first + padding - size) // stride + 1), most - 1)
            found += begin, max(begin + 1, min((end - 1 + padding) // stride + 1, most))
        return found[0], found[1], found[2], found[3]

    def needs(self, box: Box) -> Box:
        """The box of inputs that outputs in a box see."""
        (tall, wide), (down, across), (above, before) = self.size, self.stride, self.padding
        return (
            box[0] * down - above,
            (box[1] - 1) * down - above + tall,
            box[2] * across - before,
            (box[3] - 1) * across - before + wide,
        )

    def padded(self, maps: Tensor, shape: torch.Size) -> Tensor:
        """Maps with all that outputs of a shape see beyond their edges."""
        _, bottom, _, right = self.needs((0, shape[2], 0, shape[3]))
        (above, before), (height, width) = self.padding, maps.shape[2:]
        return F.pad(
            maps,
            (before, max(0, right - width), above, max(0, bottom - height)),
            value=self.outside,
        )


def find_kernel(node: fx.Node, module: nn.Module | None) -> Kernel | None:
    """That of a node which calls a convolution, a pooling or takes every so-manieth place; None for
    any other.
    """
    if node.target is operator.getitem:
        return _subsampling(node.args[1])
    if isinstance(module, nn.Conv2d):
        return _convolution(module)
    if not isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        return None
    size, stride, padding = _pair(module.kernel_size), _pair(module.stride), _pair(module.padding)
    if isinstance(module, nn.MaxPool2d):
        dilation = _pair(module.dilation)
        return (
            None
            if module.return_indices
            else Kernel(
                _extent(size, dilation),
                stride,
                padding,
                -math.inf,
                lambda maps: F.max_pool2d(maps, size, stride, 0, dilation),
            )
        )
    if module.ceil_mode or (padding != (0, 0) and not module.count_include_pad):
        return None  # at the edges it divides by less
    divisor = module.divisor_override
    return Kernel(
        size,
        stride,
        padding,
        0.0,
        lambda maps: F.avg_pool2d(maps, size, stride, divisor_override=divisor),
    )


def is_pointwise(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node does to each place of its maps, of several the same place, what it does to any
    other.
    """
    if isinstance(module, _BatchNorm):
        return isinstance(module.running_var, Tensor)
    if node.target is F.pad:
        return isinstance(node.args[1], tuple | list) and not any(node.args[1][:4])
    if node.target is torch.cat or node.target in SELECTING:
        return bool((node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")) == 1)
    return (node.target if module is None else type(module)) in POINTWISE


def _convolution(conv: nn.Conv2d) -> Kernel | None:
    if conv.padding_mode != "zeros" or type(conv).forward is not nn.Conv2d.forward:
        return None
    left, _, top, _ = conv._reversed_padding_repeated_twice
    stride = _pair(conv.stride)
    return Kernel(
        _extent(conv.kernel_size, conv.dilation),
        stride,
        (top, left),
        0.0,
        lambda maps: F.conv2d(maps, conv.weight, conv.bias, stride, 0, conv.dilation, conv.groups),
    )


def _subsampling(index: Any) -> Kernel | None:
    """Of `x[:, :, ::2, ::2]` and the like."""
    everything = slice(None)
    if not isinstance(index, tuple) or len(index) != 4 or index[:2] != (everything, everything):
        return None
    if not all(
        isinstance(one, slice)
        and one.start is one.stop is None
        and isinstance(one.step, int | None)
        for one in index[2:]
    ):
        return None
    return Kernel(
        (1, 1), (index[2].step or 1, index[3].step or 1), (0, 0), 0.0, lambda maps: maps[index]
    )


def _pair(size: int | tuple[int, ...]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _extent(size: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, int]:
    return dilation[0] * (size[0] - 1) + 1, dilation[1] * (size[1] - 1) + 1
