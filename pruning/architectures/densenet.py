"""DenseNets for CIFAR of any depth and width (Huang et al., CVPR 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from torch import nn

from pruning.architectures import architectures
from pruning.architectures._convolutional import ScaledArchitecture, draw_kaiming_normal_
from pruning.architectures._shapes import Shapes, count_numbered, has_names
from pruning.architectures.densenet22 import DenseNet
from pruning.errors import ParameterError

GROWTH = 12
"""The channels that a layer adds at width 1."""


@architectures.register("densenet")
@dataclass(frozen=True)
class CifarDenseNet(ScaledArchitecture):
    """DenseNet-BC for CIFAR, depth 6n + 4: n bottleneck layers in each of three dense blocks.

    Each layer adds 12 times `width` channels, and the stem has twice as many; transitions keep half
    of the channels.

    >>> sum(p.numel() for p in CifarDenseNet(depth=22).build().parameters())
    71686
    >>> sum(p.numel() for p in CifarDenseNet(depth=100).build().parameters())
    769162
    """

    depth: Annotated[int, Field(ge=10, le=304)] = 22
    width: Annotated[float, Field(gt=0, le=64)] = 1.0
    channels: Annotated[int, Field(ge=1, le=1024)] = 3
    classes: Annotated[int, Field(ge=2, le=100_000)] = 10

    def __post_init__(self) -> None:
        if (self.depth - 4) % 6:
            raise ParameterError(
                f"depth {self.depth} is not 6n + 4 (10, 16, 22, 28, 40, ...)", pointer="depth"
            )

    @staticmethod
    def suggest(shapes: Shapes) -> list[dict[str, Any]]:
        """The parameters of the networks that a state dict of these shapes may be of."""
        names = ("conv1.weight", "dense1.0.conv2.weight", "trans1.conv1.weight")
        if not has_names(shapes, *names):
            return []
        layers = count_numbered(shapes, r"dense1\.\d+\.conv1\.weight")
        if layers == 3:
            return []  # `densenet22`
        return [{"depth": 6 * layers + 4, "width": shapes["conv1.weight"][0] / 2 / GROWTH}]

    def build(self) -> nn.Module:
        """The network with Kaiming-normal weights."""
        net = DenseNet(
            bottleneck=True,
            layers=(self.depth - 4) // 6,
            growth=max(1, round(GROWTH * self.width)),
            compression=0.5,
            channels=self.channels,
            classes=self.classes,
        )
        draw_kaiming_normal_(net)
        return net
