"""Channels as points: the weights that write a channel, with BatchNorm folded in, as one vector and
a bias.

A channel's value before its activation is p x + b for the inputs x of its layers. Bounds that hold
for all inputs of a ball ask for the norm of the point (p, b).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruning.channels.graph import ChannelGraph
from pruning.channels.normalised_channels import Affine, BatchNorms
from pruning.errors import StructureError
from pruning.networks.layers import Layer


@dataclass(frozen=True, kw_only=True)
class ChannelNorms:
    """The points of the channels, by channel number."""

    norms: Tensor
    """float64: the norm of the weights p that write a channel."""
    biases: Tensor
    """float64: the bias b of a channel."""
    written: Tensor
    """bool: True where a layer writes the channel; the others are the image's channels."""
    summed: Tensor
    """bool: True where a channel is a sum of several, whose biases b counts by their sizes."""
    before: Mapping[str, Affine]
    """The BatchNorms between channels and the layers that read them, by the name of the layer."""
    normalised: Mapping[str, Tensor]
    """The channel at each position of these BatchNorms, by the name of the layer."""

    @staticmethod
    def of(model: nn.Module, graph: ChannelGraph, image: Tensor) -> ChannelNorms:
        """The points of the channels of a network that takes images like `image`, (1, C, H, W).

        BatchNorm is folded into the layer before it, W' = gamma / sqrt(var + eps) W, b' = beta +
        gamma (b - mu) / sqrt(var + eps), with its running statistics; one that normalises a sum of
        layers, as before the layers of a pre-activation network, counts where these read it
        (`read_by`). Where several layers write a channel, as a residual addition does, p is all
        their filters, one after the other, and b the sum of the sizes of their biases: so (p, b)
        bounds every part of the sum for their inputs in one x. With ReLU between the additions
        that is an upper limit too, as |relu(u + v)| <= |u| + |v|. What a shortcut without weights
        carries into a channel counts as a filter of it. Raises `StructureError` as
        `BatchNorms.of`.

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
        batchnorms = BatchNorms.of(model, image)
        largest = max((int(outputs.max()) for outputs in graph.outputs.values()), default=-1)
        size = max(largest + 1, graph.size)
        squares, biases, sizes, writers = torch.zeros(4, size, dtype=torch.float64)
        for name, outputs in graph.outputs.items():
            module = model.get_submodule(name)
            if not isinstance(module, Layer):
                continue
            norm = module.weight.detach().double().cpu().flatten(1).norm(dim=1)
            bias = torch.zeros_like(norm)
            if module.bias is not None:
                bias = module.bias.detach().double().cpu()
            affine = batchnorms.after.get(name)
            if affine is not None:
                norm, bias = norm * affine.scale, bias * affine.scale + affine.shift
            squares.index_add_(0, outputs, norm.square())
            biases.index_add_(0, outputs, bias)
            sizes.index_add_(0, outputs, bias.abs())
            writers.index_add_(0, outputs, torch.ones_like(norm))
        source, target = graph.carried
        # A channel is carried into later ones only: in ascending order each is complete in time.
        for index in source.argsort(stable=True).tolist():
            squares[target[index]] += squares[source[index]]
            sizes[target[index]] += sizes[source[index]]
            writers[target[index]] += writers[source[index]]
        return ChannelNorms(
            norms=squares.sqrt(),
            biases=torch.where(writers > 1, sizes, biases),
            written=writers > 0,
            summed=writers > 1,
            before=batchnorms.before,
            normalised={
                layer: graph.outputs[affine.batchnorm]
                for layer, affine in batchnorms.before.items()
            },
        )

    def read_by(self, layer: str, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The norms and biases of the points at each position that a layer reads, float64.

        `inputs` are the channels at these positions. The point of a BatchNorm's output is (s p, s b
        + t) with its scale s and shift t, or (s p, |s b| + |t|) for a sum of channels. For channels
        of the image the norm is 0. Raises `StructureError` where the layer reads other channels
        than the BatchNorm before it normalises.
        """
        norms, biases = self.norms[inputs], self.biases[inputs]
        affine = self.before.get(layer)
        if affine is None:
            return norms, biases
        channels = self.normalised[layer]
        repeats = len(inputs) // len(channels)  # above 1 after a flattening
        if not torch.equal(channels.repeat_interleave(repeats), inputs):
            raise StructureError(f"{layer} reads other channels than {affine.batchnorm} normalises")
        scale = affine.scale.repeat_interleave(repeats)
        shift = affine.shift.repeat_interleave(repeats)
        largest = (scale * biases).abs() + shift.abs()
        return norms * scale.abs(), torch.where(
            self.summed[inputs], largest, scale * biases + shift
        )
