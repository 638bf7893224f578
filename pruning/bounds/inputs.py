"""What a layer sees of the inputs at hand, each form of it made once."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

from pruning.networks.layers import Layer, Use, extract_patches


class Inputs:
    """One call of a layer.

    >>> seen = Inputs(Use(nn.Conv2d(1, 2, 2), torch.ones(3, 1, 4, 4), None))
    >>> seen.patches.shape, seen.squares, seen.shape
    (torch.Size([3, 1, 4, 9]), tensor([4., 4., 4.]), (2, 3, 3))
    """

    def __init__(self, use: Use) -> None:
        self.layer: Layer = use.layer
        self.inputs = use.inputs

    @cached_property
    def patches(self) -> Tensor:
        """What each output position sees, (N, G, K, L)."""
        return extract_patches(self.layer, self.inputs)

    @cached_property
    def squares(self) -> Tensor:
        """The largest squared norm of what a position sees, (N,)."""
        return self.patches.square().sum(2).flatten(1).amax(1)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of the output for one input."""
        if isinstance(self.layer, nn.Linear):
            return (*self.inputs.shape[1:-1], len(self.layer.weight))
        with torch.no_grad():
            return tuple(self.layer(self.inputs[:1]).shape[1:])

    def shaped(self, values: Tensor) -> Tensor:
        """(N, out, L) as the layer's output."""
        values = values.transpose(1, 2) if isinstance(self.layer, nn.Linear) else values
        return values.reshape(len(values), *self.shape)
