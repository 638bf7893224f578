"""Many images that differ from a reference only in a box, evaluated only where that matters.

A layer spreads a difference by its kernel at most: its output differs from that of the reference
only within a box, for which its input is needed within a box not much larger. Where boxes grow to
whole maps, or an operation is not known, evaluation goes on with whole maps.

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
"""The share of a map from which on a box becomes the whole map: cutting it out saves nothing."""
SIZES = {"size", "dim", "numel", len}
"""The functions and methods that read shapes and sizes."""


@dataclass(frozen=True)
class Window:
    """Maps (N, C, bottom - top, right - left) in a box.

    Outside of it they are the reference (1, C, H, W).
    """

    values: Tensor
    box: Box
    reference: Tensor

    def extract(
        self, box: Box, around: Tensor | None = None, corner: tuple[int, int] = (0, 0)
    ) -> Tensor:
        """The maps in another box.

        For a box beyond the edges, `around` is the padded reference, whose first place is `corner`.

        >>> ones = Window(torch.ones(1, 1, 1, 1), (0, 1, 1, 2), torch.zeros(1, 1, 2, 2))
        >>> ones.extract((0, 2, 0, 2))[0, 0].tolist()
        [[0.0, 1.0], [0.0, 0.0]]
        """
        if box == self.box:
            return self.values
        reference = self.reference if around is None else around
        surroundings = _cut(reference, box, corner).expand(len(self.values), -1, -1, -1)
        maps = surroundings.clone(memory_format=_find_memory_format(reference))
        common = _intersect(box, self.box)
        if common is not None:
            source = _cut(self.values, common, (self.box[0], self.box[2]))
            _cut(maps, common, (box[0], box[2])).copy_(source)
        return maps

    def to_whole(self) -> Tensor:
        """The whole maps."""
        return self.extract((0, self.reference.shape[2], 0, self.reference.shape[3]))

    def to_shape(self) -> Tensor:
        """A tensor of the shape of the whole maps, with values of no meaning."""
        return self.reference.expand(len(self.values), -1, -1, -1)


@dataclass(frozen=True, kw_only=True)
class Step:
    """An operation of the graph, with the properties that decide how it is evaluated."""

    node: fx.Node
    call: Callable[..., Any]
    operands: tuple[fx.Node, ...]
    unused_after: tuple[fx.Node, ...]
    """The operands that no later step uses."""
    kernel: Kernel | None
    pointwise: bool


class Windows:
    """A network for images that differ from a reference image only in a box.

    `StructureError` for a network that cannot be traced, or that overwrites what it uses again.

    >>> net = nn.Sequential(
    ...     nn.Conv2d(1, 1, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
    ... )
    >>> image = torch.arange(64.0).reshape(1, 8, 8)
    >>> other = image.clone()
    >>> other[0, 2, 3] = -1.0
    >>> box = (2, 3, 3, 4)
    >>> windows = Windows(net)
    >>> with torch.no_grad():
    ...     torch.allclose(windows.set_reference(image), net(image[None]))
    ...     torch.allclose(windows.evaluate(other[None, :, 2:3, 3:4], box), net(other[None]))
    True
    True
    """

    def __init__(self, model: nn.Module) -> None:
        graph = model if isinstance(model, fx.GraphModule) else trace(model)
        refuse_overwritten(graph)
        modules = find_called_modules(graph)
        last_user = {
            operand: node for node in graph.graph.nodes for operand in node.all_input_nodes
        }
        self._steps = [
            Step(
                node=node,
                call=_find_call(node, graph),
                operands=tuple(node.all_input_nodes),
                unused_after=tuple(
                    operand for operand in node.all_input_nodes if last_user[operand] is node
                ),
                kernel=find_kernel(node, modules.get(node)),
                pointwise=is_pointwise(node, modules.get(node)),
            )
            for node in graph.graph.nodes
        ]
        self._references: dict[fx.Node, Tensor] = {}
        self._padded_references: dict[fx.Node, Tensor] = {}

    def set_reference(self, image: Tensor) -> Tensor:
        """Take an image (C, H, W) as the reference of others; its logits, (1, classes)."""
        self._references = {}
        self._padded_references = {}
        return self._run(image[None], keep_references=True)

    def evaluate(self, values: Tensor, box: Box) -> Tensor:
        """The logits of images that have these values (N, C, h, w) in the box, (N, classes).

        Outside of the box they are the reference.
        """
        return self._run(_make_window(values, box, self._references[self._steps[0].node]))

    def _run(self, image: Window | Tensor, keep_references: bool = False) -> Tensor:
        """The output for images; the maps of every step are kept if they are the reference."""
        values: dict[fx.Node, Any] = {}
        for step in self._steps:
            windows = [
                values[operand] for operand in step.operands if type(values[operand]) is Window
            ]
            if step is self._steps[0]:
                output: Any = image
            elif windows:
                output = self._run_windowed(step, values, windows)
            else:
                output = _call_step(step, values)
            if keep_references and isinstance(output, Tensor) and output.dim() == 4:
                self._keep_reference(step, output)
            values[step.node] = output
            for operand in step.unused_after:
                del values[operand]
        return values[self._steps[-1].node]  # type: ignore[no-any-return]

    def _keep_reference(self, step: Step, output: Tensor) -> None:
        """Keep the output of a step for the reference image, and its padded input if needed."""
        self._references[step.node] = output.clone()  # a later step may overwrite it
        if step.kernel is not None:
            inputs = self._references[step.operands[0]]
            self._padded_references[step.node] = step.kernel.pad(inputs, output.shape)

    def _run_windowed(
        self, step: Step, values: Mapping[fx.Node, Any], windows: Sequence[Window]
    ) -> Any:
        """The output of a step on windows, with whole maps where no rule is known for it."""
        reference = self._references.get(step.node)
        padded = self._padded_references.get(step.node)
        if step.kernel is not None and reference is not None and padded is not None:
            box = step.kernel.find_outputs(windows[0].box, reference.shape)
            above, before = step.kernel.padding
            inputs = windows[0].extract(step.kernel.find_inputs(box), padded, (-above, -before))
            return _make_window(step.kernel.call(inputs), box, reference)
        if step.pointwise and reference is not None and _are_alike(step, values, windows):
            box = _span([window.box for window in windows])
            output = _call_step(step, values, lambda window: window.extract(box))
            return _make_window(output, box, reference)
        if _reads_sizes(step.node):
            return _call_step(step, values, Window.to_shape)
        return _call_step(step, values, Window.to_whole)


def _are_alike(step: Step, values: Mapping[fx.Node, Any], windows: Sequence[Window]) -> bool:
    """Whether all operands are windows of maps of one size.

    The numbers of the channels to select are a tensor, but not an operand in this sense.
    """
    if step.node.target not in SELECTING and any(
        isinstance(values[operand], Tensor) for operand in step.operands
    ):
        return False
    size = windows[0].reference.shape[2:]
    return all(window.reference.shape[2:] == size for window in windows)


def _reads_sizes(node: fx.Node) -> bool:
    """Whether a node reads shapes or types alone, and no values."""
    if node.target is getattr:
        return node.args[1] in ("shape", "dtype", "device", "ndim")
    return node.target in SIZES


def _make_window(values: Tensor, box: Box, reference: Tensor) -> Window | Tensor:
    """A window, or whole maps where the box is nearly as large."""
    window = Window(values, box, reference)
    height, width = reference.shape[2:]
    area = (box[1] - box[0]) * (box[3] - box[2])
    return window if area < WHOLE * height * width else window.to_whole()


def _span(boxes: Sequence[Box]) -> Box:
    """The smallest box around all of them."""
    tops, bottoms, lefts, rights = zip(*boxes, strict=True)
    return min(tops), max(bottoms), min(lefts), max(rights)


def _intersect(first: Box, second: Box) -> Box | None:
    """The box that both have in common, if there is one."""
    top = max(first[0], second[0])
    bottom = min(first[1], second[1])
    left = max(first[2], second[2])
    right = min(first[3], second[3])
    return (top, bottom, left, right) if top < bottom and left < right else None


def _cut(maps: Tensor, box: Box, corner: tuple[int, int]) -> Tensor:
    """A box of maps whose first place is the corner; a view."""
    top, bottom, left, right = box
    rows = maps.narrow(2, top - corner[0], bottom - top)
    return rows.narrow(3, left - corner[1], right - left)


def _find_memory_format(maps: Tensor) -> torch.memory_format:
    """The memory format of maps; plain where both fit."""
    if maps.is_contiguous(memory_format=torch.channels_last) and not maps.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format


def _call_step(
    step: Step, values: Mapping[fx.Node, Any], convert: Callable[[Window], Tensor] | None = None
) -> Any:
    """The output of a step on the values of its operands, windows converted to tensors."""

    def fill(node: fx.Node) -> Any:
        value = values[node]
        return convert(value) if convert is not None and type(value) is Window else value

    args = fx.map_arg(step.node.args, fill)
    kwargs = fx.map_arg(step.node.kwargs, fill) if step.node.kwargs else {}
    return step.call(*args, **kwargs)


def _find_call(node: fx.Node, graph: fx.GraphModule) -> Callable[..., Any]:
    """The function, module or method that a node calls."""
    target: Any = node.target
    if node.op == "call_function":
        return target  # type: ignore[no-any-return]
    if node.op == "call_module":
        return graph.get_submodule(target)
    if node.op == "call_method":
        return lambda instance, *args, **kwargs: getattr(instance, target)(*args, **kwargs)
    if node.op == "get_attr":
        return functools.partial(operator.attrgetter(target), graph)
    # the output, or a further input by its default
    return lambda *args: args[0] if args else None
