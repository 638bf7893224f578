"""Many images that differ from one only in a box of pixels, evaluated only where the network can tell them from it.

A layer spreads a difference by its kernel at most: within a box outside of which its output is that of the one image, its
input is needed within a box not much larger. Where boxes grow to whole maps, or an operation is not known, evaluation goes
on with whole maps.

Source: Nakandala, Kumar and Papakonstantinou, Incremental and approximate inference for faster occlusion-based deep CNN
explanations, SIGMOD 2019 (the incremental half, which is exact).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from pruning.bounds.graph import IN_PLACE, LIPSCHITZ, SILENT, SUMS, traced
from pruning.errors import StructureError
from pruning.layers import Layer, groups

WHOLE = 0.8
"""From this share of a map on a box is the whole map: cutting out costs more than it saves."""
POINTWISE = {*LIPSCHITZ, *SUMS, *SILENT, nn.Identity, operator.mul, torch.mul, "mul", "clone", "contiguous"}
"""The same for every place of the map."""
SELECTING = {torch.index_select, "index_select"}
SHAPES = {"size", "dim", "numel", len}
NEW = {operator.add, operator.sub, operator.mul, torch.add, torch.sub, torch.mul, torch.cat, "add", "sub", "mul"}
OVERWRITING = {*IN_PLACE, operator.isub, operator.imul, operator.itruediv}

Box = tuple[int, int, int, int]
"""Top, bottom, left, right, as slices have them; those of an input may lie beyond its edges."""


@dataclass(frozen=True)
class Window:
    """Maps (N, C, bottom - top, right - left) in a box; all around they are the reference (1, C, H, W)."""

    values: Tensor
    box: Box
    reference: Tensor

    @property
    def map(self) -> Box:
        """The box of the whole map."""
        return 0, self.reference.shape[2], 0, self.reference.shape[3]

    def within(self, box: Box, outside: float = 0.0) -> Tensor:
        """The maps in another box; `outside` beyond their edges.

        >>> ones = Window(torch.ones(1, 1, 1, 1), (0, 1, 1, 2), torch.zeros(1, 1, 2, 2))
        >>> ones.within((-1, 2, 0, 2), 7.0)[0, 0].tolist()
        [[7.0, 7.0], [0.0, 1.0], [0.0, 0.0]]
        """
        if box == self.box:
            return self.values
        last = self.reference.is_contiguous(memory_format=torch.channels_last)
        form = torch.channels_last if last and not self.reference.is_contiguous() else torch.contiguous_format
        shape = len(self.values), self.reference.shape[1], box[1] - box[0], box[3] - box[2]
        found = torch.empty(shape, dtype=self.values.dtype, device=self.values.device, memory_format=form)
        if _common(box, self.map) != box:
            found.fill_(outside)
        for source, at in (self.reference, self.map), (self.values, self.box):
            both = _common(box, at)
            if both[0] < both[1] and both[2] < both[3]:
                _cut(found, both, box).copy_(_cut(source, both, at))
        return found

    def whole(self) -> Tensor:
        """The whole maps."""
        return self.within(self.map)


@dataclass(frozen=True)
class Kernel:
    """A layer whose outputs each see a part of the map; sizes of two dimensions, of the kernel with dilation."""

    size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    """Above and on the left."""
    outside: float
    call: Callable[[Tensor], Tensor]
    """Without padding."""

    def sees(self, box: Box, shape: torch.Size) -> Box:
        """The outputs, of a map of this shape, that see something of a box; at least one in each dimension."""
        first = [(box[2 * d] + self.padding[d] - self.size[d]) // self.stride[d] + 1 for d in (0, 1)]
        first = [min(max(0, one), shape[2 + d] - 1) for d, one in enumerate(first)]
        end = [(box[2 * d + 1] - 1 + self.padding[d]) // self.stride[d] + 1 for d in (0, 1)]
        end = [max(first[d] + 1, min(one, shape[2 + d])) for d, one in enumerate(end)]
        return first[0], end[0], first[1], end[1]

    def needs(self, box: Box) -> Box:
        """The inputs, padding included, that outputs in a box see."""
        first = [box[2 * d] * self.stride[d] - self.padding[d] for d in (0, 1)]
        end = [(box[2 * d + 1] - 1) * self.stride[d] - self.padding[d] + self.size[d] for d in (0, 1)]
        return first[0], end[0], first[1], end[1]


class Windows(fx.Interpreter):
    """A network for images that differ from one, `settle`d on, only in a box.

    `StructureError` for a network that cannot be traced, or that overwrites what is used again.

    >>> net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    >>> image = torch.arange(64.0).reshape(1, 8, 8)
    >>> other = image.clone()
    >>> other[0, 2, 3] = -1.0
    >>> windows = Windows(net)
    >>> with torch.no_grad():
    ...     windows.settle(image)
    ...     torch.allclose(windows.answer(other[None, :, 2:3, 3:4], (2, 3, 3, 4)), net(other[None]))
    True
    """

    def __init__(self, model: nn.Module) -> None:
        module = model if isinstance(model, fx.GraphModule) else traced(model)
        super().__init__(module)
        nodes = module.graph.nodes
        modules = {node: module.get_submodule(node.target) for node in nodes if node.op == "call_module"}
        _refuse_overwritten(module.graph, modules)
        self._kernels = {node: _kernel(node, modules.get(node)) for node in nodes}
        self._pointwise = {node for node in nodes if _is_pointwise(node, modules.get(node))}
        self._references: dict[fx.Node, Tensor] = {}
        self._settling = False

    def settle(self, image: Tensor) -> Tensor:
        """The answer for the image (C, H, W) from which others will differ, (1, classes)."""
        self._references, self._settling = {}, True
        try:
            return self.run(image[None])  # type: ignore[no-any-return]
        finally:
            self._settling = False

    def answer(self, values: Tensor, box: Box) -> Tensor:
        """The answers for images that have these values (N, C, h, w) in the box, (N, classes)."""
        image = next(iter(self._references.values()))
        return self.run(_opened(Window(values, box, image)))  # type: ignore[no-any-return]

    def run_node(self, node: fx.Node) -> Any:
        """As the network has it, for windows by the rule of the operation, else with whole maps."""
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        windows = [] if self._settling else _found((args, kwargs), Window)
        if not windows or node.op == "placeholder":
            found = getattr(self, node.op)(node.target, args, kwargs)
            if self._settling and isinstance(found, Tensor) and found.dim() == 4:
                self._references[node] = found.clone()  # what follows may overwrite it
            return found
        kernel, reference = self._kernels[node], self._references.get(node)
        if kernel is not None and reference is not None:
            box = kernel.sees(args[0].box, reference.shape)
            return _opened(Window(kernel.call(args[0].within(kernel.needs(box), kernel.outside)), box, reference))
        if node in self._pointwise and reference is not None and self._alike(node, windows, args):
            box = _around(windows)
            args, kwargs = _replaced((args, kwargs), lambda one: one.within(box))
            return _opened(Window(getattr(self, node.op)(node.target, args, kwargs), box, reference))
        if node.target in SHAPES or node.target is getattr and args[1] in ("shape", "dtype", "device", "ndim"):
            args, kwargs = _replaced((args, kwargs), lambda one: one.reference.expand(len(one.values), -1, -1, -1))
        else:
            args, kwargs = _replaced((args, kwargs), Window.whole)
        return getattr(self, node.op)(node.target, args, kwargs)

    def _alike(self, node: fx.Node, windows: list[Window], args: tuple[Any, ...]) -> bool:
        """Whether all operands are windows of maps of one size; the channels to select are no operand."""
        whole = [] if node.target in SELECTING else _found(args, Tensor)
        return not whole and all(one.map == windows[0].map for one in windows)


def _kernel(node: fx.Node, module: nn.Module | None) -> Kernel | None:
    """What a node does to a map, where each output sees a part of it; None for anything else."""
    if node.target is operator.getitem:
        return _subsampling(node.args[1])
    if not isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        return None
    stride = _pair(module.stride)
    if isinstance(module, nn.Conv2d):
        conv = module
        if conv.padding_mode != "zeros" or type(conv).forward is not nn.Conv2d.forward:
            return None
        left, _, top, _ = conv._reversed_padding_repeated_twice
        return Kernel(_extent(conv.kernel_size, conv.dilation), stride, (top, left), 0.0, lambda maps: F.conv2d(
            maps, conv.weight, conv.bias, stride, 0, conv.dilation, groups(conv)))
    size, padding = _pair(module.kernel_size), _pair(module.padding)
    if isinstance(module, nn.MaxPool2d):
        if module.return_indices:
            return None
        dilation = _pair(module.dilation)
        return Kernel(_extent(size, dilation), stride, padding, -math.inf,
                      lambda maps: F.max_pool2d(maps, size, stride, 0, dilation))
    if module.ceil_mode or padding != (0, 0) and not module.count_include_pad:
        return None  # at the edge it divides by less
    divisor = module.divisor_override
    return Kernel(size, stride, padding, 0.0, lambda maps: F.avg_pool2d(maps, size, stride, 0, divisor_override=divisor))


def _subsampling(index: Any) -> Kernel | None:
    """Every so-manieth place of all channels, `x[:, :, ::2, ::2]`."""
    everything = slice(None)
    if not isinstance(index, tuple) or len(index) != 4 or index[:2] != (everything, everything):
        return None
    if not all(isinstance(one, slice) and one.start is one.stop is None and isinstance(one.step, int | None)
               for one in index[2:]):
        return None
    return Kernel((1, 1), (index[2].step or 1, index[3].step or 1), (0, 0), 0.0, lambda maps: maps[index])


def _is_pointwise(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node does to each place of its maps, of several the same place, what it does to any other."""
    if isinstance(module, _BatchNorm):
        return module.running_var is not None
    if node.target is F.pad:
        return isinstance(node.args[1], tuple | list) and not any(node.args[1][:4])
    if node.target is torch.cat or node.target in SELECTING:
        return (node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")) == 1
    return (node.target if module is None else type(module)) in POINTWISE


def _refuse_overwritten(graph: fx.Graph, modules: Mapping[fx.Node, nn.Module]) -> None:
    """Raise `StructureError` where an operation in place may overwrite what is used again: windows would not show it."""
    for node in graph.nodes:
        if not _is_in_place(node, modules.get(node)):
            continue
        source = node.args[0]
        while isinstance(source, fx.Node) and len(source.users) == 1 and not _is_new(source, modules.get(source)):
            source = source.args[0] if source.args else None
        if not isinstance(source, fx.Node) or len(source.users) > 1:
            raise StructureError(f"the network cannot be evaluated in windows: {node.name} overwrites what is used again")


def _is_in_place(node: fx.Node, module: nn.Module | None) -> bool:
    named = isinstance(node.target, str) and node.op == "call_method" and node.target.endswith("_")
    said = node.kwargs.get("inplace") or node.op == "call_function" and any(one is True for one in node.args)
    return bool(named or said or node.target in OVERWRITING or getattr(module, "inplace", False) or "out" in node.kwargs)


def _is_new(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether what a node gives shares no memory with what it is given."""
    return isinstance(module, Layer | _BatchNorm) or node.target in NEW


def _opened(window: Window) -> Window | Tensor:
    """A window, or whole maps where it is nearly as large."""
    top, bottom, left, right = window.box
    share = (bottom - top) * (right - left) / window.reference[0, 0].numel()
    return window if share < WHOLE else window.whole()


def _around(windows: Sequence[Window]) -> Box:
    """The box that holds those of all."""
    tops, bottoms, lefts, rights = zip(*(one.box for one in windows), strict=True)
    return min(tops), max(bottoms), min(lefts), max(rights)


def _common(one: Box, other: Box) -> Box:
    return max(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), min(one[3], other[3])


def _cut(maps: Tensor, box: Box, of: Box) -> Tensor:
    """What lies in a box, of maps that cover another."""
    return maps[:, :, box[0] - of[0]:box[1] - of[0], box[2] - of[2]:box[3] - of[2]]


def _pair(size: int | tuple[int, ...]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _extent(size: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, int]:
    return dilation[0] * (size[0] - 1) + 1, dilation[1] * (size[1] - 1) + 1


def _found(value: Any, kind: type) -> list[Any]:
    """All of a kind in nested arguments."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return [found for one in value for found in _found(one, kind)]
    return [value] if isinstance(value, kind) else []


def _replaced(value: Any, by: Callable[[Window], Tensor]) -> Any:
    """Nested arguments with tensors for windows."""
    if isinstance(value, dict):
        return {key: _replaced(one, by) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_replaced(one, by) for one in value)
    return by(value) if isinstance(value, Window) else value
