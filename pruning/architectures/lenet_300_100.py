"""LeNet-300-100, the fully connected network of LeCun et al. (1998) of many pruning papers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from pruning.architectures import architectures
from pruning.architectures.mlp import FlatArchitecture, build_dense_net


@architectures.register("lenet_300_100")
@dataclass(frozen=True)
class LeNet300100(FlatArchitecture):
    """Two hidden layers of 300 and 100 ReLU units on flattened images.

    >>> sum(p.numel() for p in LeNet300100().build().parameters())
    266610
    """

    def build(self) -> nn.Module:
        """The network with PyTorch's initialisation."""
        return build_dense_net(self.inputs, (300, 100), self.classes, "relu")
