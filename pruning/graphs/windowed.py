"""Many images that differ from one only in a box of pixels, evaluated only where the network can
tell them from it.

A layer spreads a difference by its kernel at most: within a box outside of which its output is that
of the one image, its input is needed within a box not much larger. Where boxes grow to whole maps,
or an operation is not known, evaluation goes on with whole maps.

Source: Nakandala, Kumar and Papakonstantinou, Incremental and approximate inference for faster
occlusion-based deep CNN explanations, SIGMOD 2019: the incremental half, which is exact.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from pruning.graphs.in_place import find_called_modules, refuse_overwritten
from pruning.graphs.receptive_fields import SELECTING, Box, Kernel, find_kernel, is_pointwise
from pruning.graphs.tracing import trace

WHOLE = 0.7
"""From this share of a map on a box is the whole map: cutting out costs more than it saves."""
SIZES = {"size", "dim", "numel", len}


@dataclass(frozen=True)
class Window:
    """Maps (N, C, bottom - top, right - left) in a box; all around they are the reference (1, C, H,
    W).
    """

    values: Tensor
    box: Box
    reference: Tensor

    def within(
        self, box: Box, around: Tensor | None = None, corner: tuple[int, int] = (0, 0)
    ) -> Tensor:
        """The maps in another box. For one beyond the edges `around` is the reference from the
        place `corner` on.

        >>> ones = Window(torch.ones(1, 1, 1, 1), (0, 1, 1, 2), torch.zeros(1, 1, 2, 2))
        >>> ones.within((0, 2, 0, 2))[0, 0].tolist()
        [[0.0, 1.0], [0.0, 0.0]]
        """
        if box == self.box:
            return self.values
        one = self.reference if around is None else around
        last = one.is_contiguous(memory_format=torch.channels_last) and not one.is_contiguous()
        found = (
            _cut(one, box, corner)
            .expand(len(self.values), -1, -1, -1)
            .clone(memory_format=torch.channels_last if last else torch.contiguous_format)
        )
        both = (
            max(box[0], self.box[0]),
            min(box[1], self.box[1]),
            max(box[2], self.box[2]),
            min(box[3], self.box[3]),
        )
        if both[0] < both[1] and both[2] < both[3]:
            _cut(found, both, (box[0], box[2])).copy_(
                _cut(self.values, both, (self.box[0], self.box[2]))
            )
        return found

    def whole(self) -> Tensor:
        """The whole maps."""
        return self.within((0, self.reference.shape[2], 0, self.reference.shape[3]))

    def shape(self) -> Tensor:
        """Something of the shape of the whole maps."""
        return self.reference.expand(len(self.values), -1, -1, -1)


@dataclass(frozen=True, kw_only=True)
class Step:
    """An operation of the graph, with what is to be known of it."""

    node: fx.Node
    call: Callable[..., Any]
    operands: tuple[fx.Node, ...]
    spent: tuple[fx.Node, ...]
    """What is not used any more afterwards."""
    kernel: Kernel | None
    pointwise: bool


class Windows:
    """A network for images that differ only in a box from one that it `settle`d on.

    `StructureError` for a network that cannot be traced, or that overwrites what it uses again.

    >>> net = nn.Sequential(
    ...     nn.Conv2d(1, 1, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
    ... )
    >>> image = torch.arange(64.0).reshape(1, 8, 8)
    >>> other = image.clone()
    >>> other[0, 2, 3] = -1.0
    >>> windows = Windows(net)
    >>> with torch.no_grad():
    ...     torch.allclose(windows.settle(image), net(image[None]))
    ...     torch.allclose(windows.answer(other[None, :, 2:3, 3:4], (2, 3, 3, 4)), net(other[None]))
    True
    True
    """

    def __init__(self, model: nn.Module) -> None:
        graph = model if isinstance(model, fx.GraphModule) else trace(model)
        refuse_overwritten(graph)
        modules = find_called_modules(graph)
        last = {operand: node for node in graph.graph.nodes for operand in node.all_input_nodes}
        self._steps = [
            Step(
                node=node,
                call=_call(node, graph),
                operands=tuple(node.all_input_nodes),
                spent=tuple(one for one in node.all_input_nodes if last[one] is node),
                kernel=find_kernel(node, modules.get(node)),
                pointwise=is_pointwise(node, modules.get(node)),
            )
            for node in graph.graph.nodes
        ]
        self._references: dict[fx.Node, Tensor] = {}
        self._padded: dict[fx.Node, Tensor] = {}

    def settle(self, image: Tensor) -> Tensor:
        """The answer for the image (C, H, W) from which others will differ, (1, classes)."""
        self._references, self._padded = {}, {}
        return self._run(image[None], settling=True)

    def answer(self, values: Tensor, box: Box) -> Tensor:
        """The answers for images that have these values (N, C, h, w) in the box, (N, classes)."""
        return self._run(_opened(values, box, self._references[self._steps[0].node]))

    def _run(self, image: Window | Tensor, settling: bool = False) -> Tensor:
        values: dict[fx.Node, Any] = {}
        for step in self._steps:
            windows = [values[one] for one in step.operands if type(values[one]) is Window]
            if step is self._steps[0]:
                found: Any = image
            elif windows:
                found = self._windowed(step, values, windows)
            else:
                found = _called(step, values)
            if settling and isinstance(found, Tensor) and found.dim() == 4:
                self._references[step.node] = found.clone()  # what follows may overwrite it
                if step.kernel is not None:
                    self._padded[step.node] = step.kernel.padded(
                        self._references[step.operands[0]], found.shape
                    )
            values[step.node] = found
            for one in step.spent:
                del values[one]
        return values[self._steps[-1].node]  # type: ignore[no-any-return]

    def _windowed(
        self, step: Step, values: Mapping[fx.Node, Any], windows: Sequence[Window]
    ) -> Any:
        """By the rule of the operation, else with whole maps."""
        node, reference, padded = (
            step.node,
            self._references.get(step.node),
            self._padded.get(step.node),
        )
        if step.kernel is not None and reference is not None and padded is not None:
            box, (above, before) = (
                step.kernel.sees(windows[0].box, reference.shape),
                step.kernel.padding,
            )
            seen = windows[0].within(step.kernel.needs(box), padded, (-above, -before))
            return _opened(step.kernel.call(seen), box, reference)
        if step.pointwise and reference is not None and _are_alike(step, values, windows):
            tops, bottoms, lefts, rights = zip(*(one.box for one in windows), strict=True)
            box = min(tops), max(bottoms), min(lefts), max(rights)
            return _opened(_called(step, values, lambda one: one.within(box)), box, reference)
        sizes = node.target in SIZES or (
            node.target is getattr and node.args[1] in ("shape", "dtype", "device", "ndim")
        )
        return _called(step, values, Window.shape if sizes else Window.whole)


def _are_alike(step: Step, values: Mapping[fx.Node, Any], windows: Sequence[Window]) -> bool:
    """Whether all operands are windows of maps of one size; the channels to select are no
    operand.
    """
    whole = step.node.target not in SELECTING and any(
        isinstance(values[one], Tensor) for one in step.operands
    )
    return not whole and all(
        one.reference.shape[2:] == windows[0].reference.shape[2:] for one in windows
    )


def _opened(values: Tensor, box: Box, reference: Tensor) -> Window | Tensor:
    """A window, or whole maps where it is nearly as large."""
    window, size = Window(values, box, reference), reference.shape
    return (
        window
        if (box[1] - box[0]) * (box[3] - box[2]) < WHOLE * size[2] * size[3]
        else window.whole()
    )


def _cut(maps: Tensor, box: Box, corner: tuple[int, int]) -> Tensor:
    """A box of maps whose first place is the corner."""
    return maps.narrow(2, box[0] - corner[0], box[1] - box[0]).narrow(
        3, box[2] - corner[1], box[3] - box[2]
    )


def _called(
    step: Step, values: Mapping[fx.Node, Any], change: Callable[[Window], Tensor] | None = None
) -> Any:
    """What an operation gives with its arguments filled in, windows changed to tensors."""

    def fill(node: fx.Node) -> Any:
        found = values[node]
        return change(found) if change is not None and type(found) is Window else found

    args, kwargs = (
        fx.map_arg(step.node.args, fill),
        fx.map_arg(step.node.kwargs, fill) if step.node.kwargs else {},
    )
    return step.call(*args, **kwargs)


def _call(node: fx.Node, graph: fx.GraphModule) -> Callable[..., Any]:
    """What a node calls."""
    target: Any = node.target
    if node.op == "call_function":
        return target  # type: ignore[no-any-return]
    if node.op == "call_module":
        return graph.get_submodule(target)
    if node.op == "call_method":
        return lambda first, *others, **named: getattr(first, target)(*others, **named)
    if node.op == "get_attr":
        return functools.partial(operator.attrgetter(target), graph)
    return lambda *given: given[0] if given else None  # a further input by default, or the output
