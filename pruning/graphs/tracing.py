"""Networks traced as graphs: properties of their operations, and BatchNorm folded into layers."""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from pruning.architectures._attention_heads import AttentionHeads
from pruning.errors import StructureError
from pruning.networks.layers import Layer

LIPSCHITZ: Mapping[Any, float] = {
    nn.ReLU: 1.0,
    F.relu: 1.0,
    torch.relu: 1.0,
    "relu": 1.0,
    "relu_": 1.0,
    nn.ReLU6: 1.0,
    F.relu6: 1.0,
    nn.Tanh: 1.0,
    torch.tanh: 1.0,
    "tanh": 1.0,
    nn.Sigmoid: 0.25,
    torch.sigmoid: 0.25,
    "sigmoid": 0.25,
    nn.Softplus: 1.0,
    F.softplus: 1.0,
    nn.GELU: 1.129,
    F.gelu: 1.129,
    nn.SiLU: 1.1,
    F.silu: 1.1,
    nn.LeakyReLU: 1.0,
    F.leaky_relu: 1.0,
    nn.Hardtanh: 1.0,
    F.hardtanh: 1.0,
    nn.Hardswish: 1.5,
    F.hardswish: 1.5,
    nn.Hardsigmoid: 0.1667,
    F.hardsigmoid: 0.1667,
}
"""The largest slope of each activation; a leaky ReLU's own slope counts where it is larger."""
WIDTHS: Mapping[Any, float] = {
    nn.Sigmoid: 1.0,
    torch.sigmoid: 1.0,
    "sigmoid": 1.0,
    nn.Hardsigmoid: 1.0,
    F.hardsigmoid: 1.0,
    nn.Tanh: 2.0,
    torch.tanh: 2.0,
    "tanh": 2.0,
    nn.ReLU6: 6.0,
    F.relu6: 6.0,
}
"""The width of the range of an activation that has one: no error is larger, as in a gate."""
PRODUCTS = {operator.mul, torch.mul, "mul"}
"""The products of two tensors, or of a tensor and a number."""
PARTS = {torch.chunk, torch.split, "chunk", "split"}
"""The operations that divide a tensor into several."""
NONNEGATIVE = {
    F.pad,
    operator.getitem,
    torch.flatten,
    torch.cat,
    torch.mean,
    torch.reshape,
    F.avg_pool2d,
    F.adaptive_avg_pool2d,
    F.max_pool2d,
    torch.permute,
    torch.transpose,
    torch.squeeze,
    torch.unsqueeze,
    torch.index_select,
    nn.Flatten,
    nn.Identity,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.MaxPool2d,
    nn.Unflatten,
    "flatten",
    "view",
    "reshape",
    "mean",
    "permute",
    "transpose",
    "contiguous",
    "squeeze",
    "unsqueeze",
    "index_select",
    "clone",
    "sum",
    torch.sum,
}
"""The operations that are linear with nonnegative coefficients, or a maximum.

An error goes through them as a value does.
"""
SHAPES = {
    nn.Flatten,
    nn.Identity,
    nn.Unflatten,
    torch.flatten,
    torch.reshape,
    "flatten",
    "view",
    "reshape",
    "contiguous",
}
"""The operations that do nothing but change the shape."""
SIZES = {getattr, "size", "dim", "numel", operator.getitem, len}
"""The operations that read shapes and sizes, which have no error."""
SOFTPLUS_THRESHOLD = 20
"""The input from which on a softplus is linear by default; its value changes by less than 1e-8
there.
"""
SILENT = {nn.Dropout, nn.Dropout2d, F.dropout}
"""The operations that do nothing in eval mode."""
IN_PLACE = {operator.iadd, "add_"}
CHAINED = {
    nn.Linear,
    nn.Conv2d,
    nn.ReLU,
    F.relu,
    torch.relu,
    "relu",
    "relu_",
    *SHAPES,
    *SILENT,
}
"""The operations of a chain, see `is_chain`."""
SUMS = {operator.add, operator.sub, operator.iadd, torch.add, torch.sub, "add", "add_", "sub"}


class _Tracer(fx.Tracer):
    """A tracer that sees an attention as one operation, like those of torch.nn."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        has_heads = any(isinstance(child, AttentionHeads) for child in m.children())
        return has_heads or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module) -> fx.GraphModule:
    """The graph of a network in eval mode.

    Raises `StructureError` for a network whose course depends on its inputs.
    """
    try:
        return fx.GraphModule(model, _Tracer().trace(model))
    except Exception as error:  # a forward may do anything
        raise StructureError(
            f"the network cannot be traced as a graph: {type(error).__name__}: {error}"
        ) from error


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """A copy in eval mode with every BatchNorm folded into the layer before it.

    W' = gamma / sqrt(var + eps) W, b' = beta + gamma (b - mean) / sqrt(var + eps). That layer is a
    Linear or Conv2d whose output only the BatchNorm reads. Names of weights stay as they are; a
    folded BatchNorm becomes an `Identity`. A BatchNorm after a Linear is taken to normalise its
    features, not its tokens, where both have the same number.

    >>> net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)).eval()
    >>> fold_batchnorm(net)[1]
    Identity()
    """
    folded = copy.deepcopy(model).eval()
    if not any(isinstance(module, _BatchNorm) for module in folded.modules()):
        return folded
    graph = trace(folded).graph
    modules = dict(folded.named_modules())
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        norm = modules.get(str(node.target)) if node.op == "call_module" else None
        before = node.args[0] if node.args else None
        if not isinstance(norm, _BatchNorm) or norm.running_var is None:
            continue
        if not isinstance(before, fx.Node):
            continue
        layer = modules.get(str(before.target)) if before.op == "call_module" else None
        # A module that is called twice, or a layer whose output is also read elsewhere, must stay.
        is_only_pair = (
            calls[str(before.target)] == 1
            and calls[str(node.target)] == 1
            and len(before.users) == 1
        )
        if isinstance(layer, Layer) and is_only_pair and norm.num_features == len(layer.weight):
            _fold_(layer, norm)
            parent, _, child = str(node.target).rpartition(".")
            setattr(folded.get_submodule(parent), child, nn.Identity())
    return folded


def is_chain(model: nn.Module) -> bool:
    """Whether a network is a chain of layers and ReLUs, as CoreNet's theorem assumes.

    Every operation has one input and one user.

    >>> is_chain(nn.Sequential(nn.Flatten(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)))
    True
    >>> is_chain(nn.Sequential(nn.Linear(1, 1), nn.Tanh()))
    False
    """
    graph = trace(model)
    modules = dict(graph.named_modules())
    for node in graph.graph.nodes:
        if len(node.users) > 1 or len(node.all_input_nodes) > 1:
            return False
        if node.op in ("placeholder", "output"):
            continue
        operation = type(modules[str(node.target)]) if node.op == "call_module" else node.target
        if operation not in CHAINED:
            return False
    return True


def _fold_(layer: Layer, norm: _BatchNorm) -> None:
    """Give a layer the weight and bias with which it does what both do, in place."""
    weight, bias = fuse_conv_bn_weights(
        layer.weight,
        layer.bias,
        norm.running_mean,  # type: ignore[arg-type]
        norm.running_var,  # type: ignore[arg-type]
        norm.eps,
        norm.weight,
        norm.bias,
    )
    layer.weight = weight
    layer.bias = nn.Parameter(bias.detach(), weight.requires_grad)
