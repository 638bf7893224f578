"""The receptive fields of operations on maps: which outputs see which inputs, or only their own."""

from __future__ import annotations

import functools
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
"""The operations that do the same to every place of their maps."""
SELECTING = {torch.index_select, "index_select"}

Box = tuple[int, int, int, int]
"""Top, bottom, left and right, the ends excluded as in slices; they may lie beyond the edges."""


@dataclass(frozen=True)
class Kernel:
    """A layer whose outputs each see a part of its input.

    Sizes are (rows, columns), with dilation.

    >>> kernel = Kernel(size=(3, 3), stride=(2, 2), padding=(1, 1), outside=0.0, call=nn.Identity())
    >>> kernel.find_outputs((3, 4, 0, 1), torch.Size((1, 1, 4, 4)))
    (1, 3, 0, 1)
    >>> kernel.find_inputs((1, 3, 0, 1))
    (1, 6, -1, 2)
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    """The rows above and the columns on the left of the maps."""
    outside: float
    """The value beyond the edges."""
    call: Callable[[Tensor], Tensor]
    """The layer without its padding."""

    def find_outputs(self, box: Box, shape: torch.Size) -> Box:
        """The box of outputs that see something of a box of inputs.

        `shape` is that of all outputs. The box has at least one place in each dimension.
        """
        top, bottom, left, right = box
        return (
            *self._find_output_range(top, bottom, axis=0, count=shape[2]),
            *self._find_output_range(left, right, axis=1, count=shape[3]),
        )

    def _find_output_range(self, begin: int, end: int, *, axis: int, count: int) -> tuple[int, int]:
        """The first and the end of the `count` outputs along an axis that see some of a range."""
        # Output i sees the inputs i stride - padding ... i stride - padding + size - 1.
        padding = self.padding[axis]
        stride = self.stride[axis]
        first = (begin + padding - self.size[axis]) // stride + 1
        first = min(max(0, first), count - 1)
        last = (end - 1 + padding) // stride
        return first, max(first + 1, min(last + 1, count))

    def find_inputs(self, box: Box) -> Box:
        """The box of inputs that the outputs in a box see."""
        top, bottom, left, right = box
        return (
            *self._find_input_range(top, bottom, axis=0),
            *self._find_input_range(left, right, axis=1),
        )

    def _find_input_range(self, begin: int, end: int, *, axis: int) -> tuple[int, int]:
        """The first and the end of the inputs along an axis that a range of outputs sees."""
        stride = self.stride[axis]
        first = begin * stride - self.padding[axis]
        last = (end - 1) * stride - self.padding[axis]
        return first, last + self.size[axis]

    def pad(self, maps: Tensor, shape: torch.Size) -> Tensor:
        """Maps with everything that outputs of a shape see beyond their edges."""
        _, bottom, _, right = self.find_inputs((0, shape[2], 0, shape[3]))
        above, before = self.padding
        height, width = maps.shape[2:]
        below = max(0, bottom - height)
        behind = max(0, right - width)
        return F.pad(maps, (before, behind, above, below), value=self.outside)


def find_kernel(node: fx.Node, module: nn.Module | None) -> Kernel | None:
    """The kernel of a node that convolves, pools or takes every n-th place; None for any other."""
    if node.target is operator.getitem:
        return _convert_subsampling(node.args[1])
    if isinstance(module, nn.Conv2d):
        return _convert_convolution(module)
    if isinstance(module, nn.MaxPool2d):
        return _convert_max_pooling(module)
    if isinstance(module, nn.AvgPool2d):
        return _convert_average_pooling(module)
    return None


def is_pointwise(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node does the same to every place of its maps.

    A node with several operands reads the same place of each of them.
    """
    if isinstance(module, _BatchNorm):
        return isinstance(module.running_var, Tensor)
    if node.target is F.pad:
        # The first four numbers are those of columns and rows: only channels may be padded.
        return isinstance(node.args[1], tuple | list) and not any(node.args[1][:4])
    if node.target is torch.cat or node.target in SELECTING:
        dimension = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        return bool(dimension == 1)
    operation = node.target if module is None else type(module)
    return operation in POINTWISE


def _convert_convolution(conv: nn.Conv2d) -> Kernel | None:
    """The kernel of a plain convolution padded with zeros; None for any other."""
    if conv.padding_mode != "zeros" or type(conv).forward is not nn.Conv2d.forward:
        return None
    left, _, top, _ = conv._reversed_padding_repeated_twice
    stride = _to_pair(conv.stride)

    def convolve(maps: Tensor) -> Tensor:
        return F.conv2d(
            maps,
            conv.weight,
            conv.bias,
            stride=stride,
            padding=0,
            dilation=conv.dilation,
            groups=conv.groups,
        )

    return Kernel(
        size=_measure_extent(conv.kernel_size, conv.dilation),
        stride=stride,
        padding=(top, left),
        outside=0.0,
        call=convolve,
    )


def _convert_max_pooling(pool: nn.MaxPool2d) -> Kernel | None:
    """The kernel of a max pooling; None where it returns indices too."""
    if pool.return_indices:
        return None
    size = _to_pair(pool.kernel_size)
    stride = _to_pair(pool.stride)
    dilation = _to_pair(pool.dilation)
    return Kernel(
        size=_measure_extent(size, dilation),
        stride=stride,
        padding=_to_pair(pool.padding),
        outside=-math.inf,
        call=functools.partial(
            F.max_pool2d, kernel_size=size, stride=stride, padding=0, dilation=dilation
        ),
    )


def _convert_average_pooling(pool: nn.AvgPool2d) -> Kernel | None:
    """The kernel of an average pooling; None where the edges are treated otherwise."""
    size = _to_pair(pool.kernel_size)
    stride = _to_pair(pool.stride)
    padding = _to_pair(pool.padding)
    if pool.ceil_mode or (padding != (0, 0) and not pool.count_include_pad):
        return None  # at the edges it divides by less
    return Kernel(
        size=size,
        stride=stride,
        padding=padding,
        outside=0.0,
        call=functools.partial(
            F.avg_pool2d, kernel_size=size, stride=stride, divisor_override=pool.divisor_override
        ),
    )


def _convert_subsampling(index: Any) -> Kernel | None:
    """The kernel of an index such as `[:, :, ::2, ::2]`; None for any other index."""
    everything = slice(None)
    if not isinstance(index, tuple) or len(index) != 4 or index[:2] != (everything, everything):
        return None
    rows, columns = index[2:]
    if not _takes_nth_places(rows) or not _takes_nth_places(columns):
        return None
    return Kernel(
        size=(1, 1),
        stride=(rows.step or 1, columns.step or 1),
        padding=(0, 0),
        outside=0.0,
        call=operator.itemgetter(index),
    )


def _takes_nth_places(index: Any) -> bool:
    """Whether an index takes every n-th place from the first on."""
    if not isinstance(index, slice) or not isinstance(index.step, int | None):
        return False
    return index.start is None and index.stop is None


def _to_pair(size: int | tuple[int, ...]) -> tuple[int, int]:
    """A size in both dimensions."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _measure_extent(size: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, int]:
    """The rows and columns that a dilated kernel spans."""
    return dilation[0] * (size[0] - 1) + 1, dilation[1] * (size[1] - 1) + 1
