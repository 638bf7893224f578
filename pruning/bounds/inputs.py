"""The inputs of a layer in the shapes that bounds need, each made once."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

from pruning.networks.layers import Layer, Use, extract_patches


class Inputs:
    """The inputs of one call of a layer.

    >>> inputs = Inputs(Use(nn.Conv2d(1, 2, 2), torch.ones(3, 1, 4, 4), None))
    >>> inputs.patches.shape, inputs.squares, inputs.shape
    (torch.Size([3, 1, 4, 9]), tensor([4., 4., 4.]), (2, 3, 3))
    """

    def __init__(self, use: Use) -> None:
        self.layer: Layer = use.layer
        self.inputs = use.inputs

    @cached_property
    def patches(self) -> Tensor:
        """The inputs of each output position, (N, G, K, L)."""
        return extract_patches(self.layer, self.inputs)

    @cached_property
    def squares(self) -> Tensor:
        """The largest squared norm of the inputs of a position, (N,)."""
        return self.patches.square().sum(2).flatten(1).amax(1)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of the output for one input."""
        if isinstance(self.layer, nn.Linear):
            return (*self.inputs.shape[1:-1], len(self.layer.weight))
        with torch.no_grad():
            return tuple(self.layer(self.inputs[:1]).shape[1:])

    def reshape_as_output(self, values: Tensor) -> Tensor:
        """Values (N, out, L) in the shape of the layer's output."""
        if isinstance(self.layer, nn.Linear):
            values = values.transpose(1, 2)
        return values.reshape(len(values), *self.shape)
