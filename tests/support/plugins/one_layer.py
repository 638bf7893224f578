"""An architecture of one linear layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from pruning.architectures import architectures
from pruning.architectures.mlp import FlatArchitecture


@architectures.register("one_layer")
@dataclass(frozen=True)
class OneLayer(FlatArchitecture):
    """Logistic regression on flattened images, with a hidden layer as wide as the classes."""

    def build(self) -> nn.Module:
        """The network, initialised as PyTorch does."""
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(self.inputs, 32),
            nn.ReLU(),
            nn.Linear(32, self.classes),
        )
