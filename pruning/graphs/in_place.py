"""Operations in place in the graph of a network: found, refused where unsafe, put in where safe."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from pruning.errors import StructureError
from pruning.graphs.tracing import IN_PLACE
from pruning.networks.layers import Layer


def add_(first: Tensor, second: Tensor) -> Tensor:
    """The sum, in the memory of the first where both have the same shape and type."""
    if first.shape == second.shape and first.dtype == second.dtype:
        return first.add_(second)
    return first + second


OVERWRITING = {*IN_PLACE, operator.isub, operator.imul, operator.itruediv}
"""The functions that overwrite their first argument."""
NEW = {
    operator.add,
    operator.sub,
    operator.mul,
    torch.add,
    torch.sub,
    torch.mul,
    torch.cat,
    "add",
    "sub",
    "mul",
    add_,
}
"""The functions and methods whose results have memory of their own, which nothing else reads."""
RELU = {nn.ReLU, F.relu, torch.relu, "relu"}


def find_called_modules(graph: fx.GraphModule) -> dict[fx.Node, nn.Module]:
    """The module of each node that calls one."""
    return {
        node: graph.get_submodule(str(node.target))
        for node in graph.graph.nodes
        if node.op == "call_module"
    }


def refuse_overwritten(graph: fx.GraphModule) -> None:
    """Raise `StructureError` where an operation in place may overwrite what is used again.

    >>> class Doubled(nn.Module):
    ...     def forward(self, x):
    ...         y = x * 2
    ...         return y.relu_() + y
    >>> refuse_overwritten(fx.symbolic_trace(Doubled()))
    Traceback (most recent call last):
    pruning.errors.StructureError: the network overwrites in relu_ what it uses again
    """
    modules = find_called_modules(graph)
    for node in graph.graph.nodes:
        if not _is_in_place(node, modules.get(node)):
            continue
        # A result that may share the memory of its own input (a view) is followed back to where
        # the memory was new: nothing on the way may have a second user.
        source = node.args[0] if node.args else None
        while (
            isinstance(source, fx.Node)
            and len(source.users) == 1
            and not _has_new_memory(source, modules.get(source))
        ):
            source = source.args[0] if source.args else None
        if not isinstance(source, fx.Node) or len(source.users) > 1:
            raise StructureError(f"the network overwrites in {node.name} what it uses again")


def simplify(graph: fx.GraphModule) -> fx.GraphModule:
    """Remove `Identity` modules, and let ReLUs and sums work in place where that is safe.

    It is safe where nothing else reads their input. The graph is changed and returned.

    >>> net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Identity(), nn.ReLU())
    >>> [node.name for node in simplify(fx.symbolic_trace(net)).graph.nodes]
    ['input_1', '_0', '_2', 'output']
    """
    modules = find_called_modules(graph)
    for node, module in modules.items():
        if type(module) is nn.Identity:
            node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
            graph.graph.erase_node(node)
    for node in graph.graph.nodes:
        operand = node.args[0] if node.args else None
        if not isinstance(operand, fx.Node) or len(operand.users) > 1:
            continue
        if not _has_new_memory(operand, modules.get(operand)):
            continue
        operation = type(modules[node]) if node in modules else node.target
        if operation in RELU:
            node.op = "call_function"
            node.target = torch.relu_
            node.args = (operand,)
            node.kwargs = {}
        elif operation is operator.add and isinstance(node.args[1], fx.Node):
            node.target = add_
    graph.recompile()
    return graph


def _is_in_place(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether an operation overwrites an input, or may do so as far as its arguments tell."""
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    # F.relu(x, True): a flag passed by position may be `inplace`.
    has_flag = node.op == "call_function" and any(argument is True for argument in node.args)
    return bool(
        node.kwargs.get("inplace")
        or has_flag
        or getattr(module, "inplace", False)
        or "out" in node.kwargs
        or node.target in OVERWRITING
        or str(name).endswith("_")
    )


def _has_new_memory(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether the result of an operation never shares the memory of its inputs."""
    return isinstance(module, Layer | _BatchNorm) or node.target in NEW
