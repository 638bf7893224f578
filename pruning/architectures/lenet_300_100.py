"""LeNet-300-100, the fully connected network of LeCun et al. (1998) that pruning papers start from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import nn

from pruning.architectures import architectures
from pruning.architectures.mlp import dense_net


@architectures.register("lenet_300_100")
@dataclass(frozen=True)
class LeNet300100:
    """Two hidden layers of 300 and 100 ReLU units on flattened images.

    >>> sum(p.numel() for p in LeNet300100().build().parameters())
    266610
    """

    channels: Annotated[int, Field(ge=1, le=1024)] = 1
    height: Annotated[int, Field(ge=1, le=65_536)] = 28
    width: Annotated[int, Field(ge=1, le=65_536)] = 28
    classes: Annotated[int, Field(ge=2, le=100_000)] = 10

    @property
    def input_shape(self) -> tuple[int | None, int | None, int | None]:
        """Images of one size."""
        return self.channels, self.height, self.width

    @property
    def outputs(self) -> int:
        """Number of classes."""
        return self.classes

    def build(self) -> nn.Module:
        """The network, initialised as PyTorch does."""
        return dense_net(self.channels * self.height * self.width, (300, 100), self.classes, "relu")
