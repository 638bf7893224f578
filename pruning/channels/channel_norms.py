"""Channels as points: what writes a channel, with BatchNorm folded in, as one vector and a bias.

A channel's value before its activation is p x + b for what its layers see, x. Bounds that hold for
all inputs of a ball ask for the norm of the point (p, b).
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
from pruning.networks.layers import Layer
from pruning.networks.modes import evaluate_mode


@dataclass(frozen=True)
class ChannelNorms:
    """By channel number, float64: the norm of what writes a channel without its bias, and the
    bias.
    """

    norms: Tensor
    biases: Tensor
    written: Tensor
    """bool; the others are the image's channels."""

    @staticmethod
    def of(model: nn.Module, graph: ChannelGraph, image: Tensor) -> ChannelNorms:
        """Those of a network that takes images like `image`, (1, C, H, W).

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
        >>> _ = (
        ...     net[0].bias.data.fill_(1.0),
        ...     net[1].running_var.fill_(4.0),
        ...     net[1].bias.data.fill_(0.5),
        ... )
        >>> graph = ChannelGraph(
        ...     groups=(),
        ...     inputs={},
        ...     outputs={"0": torch.tensor([0])},
        ...     carried=torch.empty(2, 0).long(),
        ... )
        >>> found = ChannelNorms.of(net, graph, torch.zeros(1, 2))
        >>> round(float(found.norms[0]), 3), round(float(found.biases[0]), 3)
        (2.5, 1.0)
        """
        norms = _norms(model, image)
        size = max((int(outputs.max()) + 1 for outputs in graph.outputs.values()), default=0)
        squares, biases, written = (
            torch.zeros(max(size, graph.size), dtype=torch.float64) for _ in range(3)
        )
        for name, outputs in graph.outputs.items():
            module = model.get_submodule(name)
            if not isinstance(module, Layer):
                continue
            scale, shift = norms.get(name, _unchanged(module))
            weight = module.weight.detach().double().cpu().flatten(1)
            bias = (
                torch.zeros(len(weight)).double()
                if module.bias is None
                else module.bias.detach().double().cpu()
            )
            squares.index_add_(0, outputs, (weight.norm(dim=1) * scale).square())
            biases.index_add_(0, outputs, bias * scale + shift)
            written[outputs] = 1.0
        source, target = graph.carried
        for place in source.argsort(
            stable=True
        ).tolist():  # a channel is carried on to later ones only
            squares[target[place]] += squares[source[place]]
            biases[target[place]] += biases[source[place]]
        return ChannelNorms(squares.sqrt(), biases, written > 0)


def _unchanged(module: Layer) -> tuple[Tensor, Tensor]:
    return torch.ones(len(module.weight)).double(), torch.zeros(len(module.weight)).double()


def _norms(model: nn.Module, image: Tensor) -> Mapping[str, tuple[Tensor, Tensor]]:
    """By the name of the layer before, what each BatchNorm multiplies by and adds in eval mode,
    float64.
    """
    names = {module: name for name, module in model.named_modules()}
    last: dict[
        int, tuple[str, Tensor]
    ] = {}  # the outputs are held, so that no other tensor can take their place
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(module, Layer):
            last[id(output)] = names[module], output
            return
        assert isinstance(module, _BatchNorm)
        if id(inputs[0]) not in last:
            raise StructureError(
                f"{names[module]} does not follow a layer directly: it cannot be folded into one"
            )
        if module.running_mean is None or module.running_var is None:
            raise StructureError(
                f"{names[module]} has no running statistics: it cannot be folded into the layer "
                "before"
            )
        ones = torch.ones_like(module.running_mean)
        gamma, beta = (
            ones if module.weight is None else module.weight,
            0 * ones if module.bias is None else module.bias,
        )
        scale = gamma.detach().double() / (module.running_var.double() + module.eps).sqrt()
        found[last[id(inputs[0])][0]] = (
            scale.cpu(),
            (beta.detach().double() - module.running_mean.double() * scale).cpu(),
        )

    hooks = [
        module.register_forward_hook(note)
        for module in model.modules()
        if isinstance(module, Layer | _BatchNorm)
    ]
    try:
        with torch.no_grad(), evaluate_mode(model):
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return found
