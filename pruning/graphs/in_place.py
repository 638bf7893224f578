"""Operations in place, in the graph of a network: where they are, where they may be, where they may
be seen.
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from pruning.errors import StructureError
from pruning.graphs.tracing import IN_PLACE
from pruning.networks.layers import Layer


def add_(one: Tensor, other: Tensor) -> Tensor:
    """The sum, in the place of the first where it has the size of the sum."""
    return one.add_(other) if one.shape == other.shape and one.dtype == other.dtype else one + other


OVERWRITING = {*IN_PLACE, operator.isub, operator.imul, operator.itruediv}
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
"""Nothing else sees the memory of what they give."""
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
        source = node.args[0] if node.args else None
        while (
            isinstance(source, fx.Node)
            and len(source.users) == 1
            and not _is_new(source, modules.get(source))
        ):
            source = source.args[0] if source.args else None
        if not isinstance(source, fx.Node) or len(source.users) > 1:
            raise StructureError(f"the network overwrites in {node.name} what it uses again")


def simplify(graph: fx.GraphModule) -> fx.GraphModule:
    """The same graph without `Identity` modules; ReLUs and sums are in place where nothing else
    sees what they are given.

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
        given, kind = (
            node.args[0] if node.args else None,
            type(modules[node]) if node in modules else node.target,
        )
        if (
            not isinstance(given, fx.Node)
            or len(given.users) > 1
            or not _is_new(given, modules.get(given))
        ):
            continue
        if kind in RELU:
            node.op, node.target, node.args, node.kwargs = (
                "call_function",
                torch.relu_,
                (given,),
                {},
            )
        elif kind is operator.add and isinstance(node.args[1], fx.Node):
            node.target = add_
    graph.recompile()
    return graph


def _is_in_place(node: fx.Node, module: nn.Module | None) -> bool:
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    said = node.kwargs.get("inplace") or (
        node.op == "call_function" and any(one is True for one in node.args)
    )
    return bool(
        said
        or getattr(module, "inplace", False)
        or "out" in node.kwargs
        or node.target in OVERWRITING
        or str(name).endswith("_")
    )


def _is_new(node: fx.Node, module: nn.Module | None) -> bool:
    return isinstance(module, Layer | _BatchNorm) or node.target in NEW
