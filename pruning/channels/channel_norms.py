"""Channels as points: the weights that write a channel, with BatchNorm folded in, as one vector and
a bias.

A channel's value before its activation is p x + b for the inputs x of its layers. Bounds that hold
for all inputs of a ball ask for the norm of the point (p, b).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pruning.channels.graph import ChannelGraph
from pruning.errors import StructureError
from pruning.networks.layers import Layer, forward_hooks
from pruning.networks.modes import evaluate_mode


@dataclass(frozen=True)
class ChannelNorms:
    """The points of the channels, by channel number."""

    norms: Tensor
    """float64: the norm of the weights p that write a channel."""
    biases: Tensor
    """float64: the bias b of a channel."""
    written: Tensor
    """bool: True where a layer writes the channel; the others are the image's channels."""

    @staticmethod
    def of(model: nn.Module, graph: ChannelGraph, image: Tensor) -> ChannelNorms:
        """The points of the channels of a network that takes images like `image`, (1, C, H, W).

        BatchNorm is folded into the layer before it, W' = gamma / sqrt(var + eps) W, b' = beta +
        gamma (b - mu) / sqrt(var + eps), with its running statistics. Where several layers write a
        channel, as a residual addition does, p is all their filters, one after the other, and b the
        sum of their biases: their sum is p x + b for their inputs in one x. With ReLU between the
        additions that is an upper limit, as |relu(u + v)| <= |u| + |v|. What a shortcut without
        weights carries into a channel counts as a filter of it too. Raises `StructureError` for a
        BatchNorm that does not follow a layer directly, or keeps no statistics.

        >>> net = nn.Sequential(
        ...     nn.Linear(2, 1), nn.BatchNorm1d(1), nn.Flatten(), nn.Linear(1, 1)
        ... ).eval()
        >>> _ = net[0].weight.data.copy_(torch.tensor([[3.0, 4.0]]))
        >>> _ = net[0].bias.data.fill_(1.0)
        >>> _ = net[1].running_var.fill_(4.0), net[1].bias.data.fill_(0.5)
        >>> graph = ChannelGraph(
        ...     groups=(),
        ...     inputs={},
        ...     outputs={"0": torch.tensor([0])},
        ...     carried=torch.empty(2, 0).long(),
        ... )
        >>> points = ChannelNorms.of(net, graph, torch.zeros(1, 2))
        >>> round(float(points.norms[0]), 3), round(float(points.biases[0]), 3)
        (2.5, 1.0)
        """
        batchnorms = _read_batchnorms(model, image)
        largest = max((int(outputs.max()) for outputs in graph.outputs.values()), default=-1)
        size = max(largest + 1, graph.size)
        squares = torch.zeros(size, dtype=torch.float64)
        biases = torch.zeros(size, dtype=torch.float64)
        written = torch.zeros(size, dtype=torch.bool)
        for name, outputs in graph.outputs.items():
            module = model.get_submodule(name)
            if not isinstance(module, Layer):
                continue
            weight = module.weight.detach().double().cpu().flatten(1)
            zeros = torch.zeros(len(weight), dtype=torch.float64)
            scale, shift = batchnorms.get(name, (torch.ones_like(zeros), zeros))
            bias = zeros if module.bias is None else module.bias.detach().double().cpu()
            squares.index_add_(0, outputs, (weight.norm(dim=1) * scale).square())
            biases.index_add_(0, outputs, bias * scale + shift)
            written[outputs] = True
        source, target = graph.carried
        # A channel is carried into later ones only: in ascending order each is complete in time.
        for index in source.argsort(stable=True).tolist():
            squares[target[index]] += squares[source[index]]
            biases[target[index]] += biases[source[index]]
        return ChannelNorms(squares.sqrt(), biases, written)


def _read_batchnorms(model: nn.Module, image: Tensor) -> Mapping[str, tuple[Tensor, Tensor]]:
    """The factor and the shift of each BatchNorm in eval mode, float64, by the name of the layer
    before it.
    """
    names = {module: name for name, module in model.named_modules()}
    # The layer of each output, by the output's id; the tensors are held, as an id is used again
    # once its tensor is gone.
    written: dict[int, tuple[str, Tensor]] = {}
    batchnorms: dict[str, tuple[Tensor, Tensor]] = {}

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(module, Layer):
            written[id(output)] = names[module], output
            return
        assert isinstance(module, _BatchNorm)
        if id(inputs[0]) not in written:
            raise StructureError(
                f"{names[module]} does not follow a layer directly: it cannot be folded into one"
            )
        if module.running_mean is None or module.running_var is None:
            raise StructureError(
                f"{names[module]} has no running statistics: it cannot be folded into the layer "
                "before"
            )
        layer, _ = written[id(inputs[0])]
        batchnorms[layer] = _fold(module, module.running_mean, module.running_var)

    modules = [module for module in model.modules() if isinstance(module, Layer | _BatchNorm)]
    with forward_hooks(modules, note), torch.no_grad(), evaluate_mode(model):
        model(image)
    return batchnorms


def _fold(module: _BatchNorm, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """The factor gamma / sqrt(var + eps) and the shift beta - mu times it, float64 on the CPU."""
    gamma = torch.ones_like(mean) if module.weight is None else module.weight
    beta = torch.zeros_like(mean) if module.bias is None else module.bias
    scale = gamma.detach().double() / (variance.double() + module.eps).sqrt()
    shift = beta.detach().double() - mean.double() * scale
    return scale.cpu(), shift.cpu()
