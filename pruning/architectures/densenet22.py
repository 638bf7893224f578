"""The DenseNet of 22 layers for CIFAR (Huang et al., CVPR 2017).

It has three dense blocks, in which each layer reads all layers before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.architectures import architectures
from pruning.architectures._convolutional import AnySizeArchitecture, draw_kaiming_normal_
from pruning.architectures._shapes import Shapes, count_numbered, has_names

CONVOLUTIONS = 18
"""The convolutions of the dense blocks: 22 layers less stem, two transitions and classifier."""


class Basic(nn.Module):
    """BatchNorm, ReLU and a 3x3 convolution to `growth` new channels, added to the old ones."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C + growth, H, W)."""
        return torch.cat([x, self.conv1(F.relu(self.bn1(x)))], 1)


class Bottleneck(nn.Module):
    """The layers of `Basic`, with a 1x1 convolution to 4 growth channels before the 3x3."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C + growth, H, W)."""
        out = self.conv1(F.relu(self.bn1(x)))
        return torch.cat([x, self.conv2(F.relu(self.bn2(out)))], 1)


class Transition(nn.Module):
    """BatchNorm, ReLU, a 1x1 convolution and the mean over 2x2 pixels, fewer at odd borders."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', ceil(H/2), ceil(W/2))."""
        return F.avg_pool2d(self.conv1(F.relu(self.bn1(x))), 2, ceil_mode=True)


class DenseNet(nn.Module):
    """Stem, three dense blocks with transitions between them, pooling and classifier.

    BatchNorm and ReLU precede the pooling, which is a global average.
    """

    def __init__(
        self,
        *,
        bottleneck: bool,
        layers: int,
        growth: int,
        compression: float,
        channels: int,
        classes: int,
    ) -> None:
        super().__init__()
        layer = Bottleneck if bottleneck else Basic
        width = 2 * growth
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        stages: list[nn.Module] = []
        for stage in range(3):
            dense_layers = []
            for _ in range(layers):
                dense_layers.append(layer(width, growth))
                width += growth
            stages.append(nn.Sequential(*dense_layers))
            if stage < 2:
                narrow = max(1, int(compression * width))
                stages.append(Transition(width, narrow))
                width = narrow
        self.dense1, self.trans1, self.dense2, self.trans2, self.dense3 = stages
        self.bn = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, classes)."""
        out = self.trans1(self.dense1(self.conv1(x)))
        out = self.dense3(self.trans2(self.dense2(out)))
        return self.fc(F.relu(self.bn(out)).mean((2, 3)))  # type: ignore[no-any-return]


@architectures.register("densenet22")
@dataclass(frozen=True)
class DenseNet22(AnySizeArchitecture):
    """DenseNet of 22 layers for CIFAR: each layer of a dense block adds `growth` channels.

    The stem has twice as many. Like the code of Lost in Pruning it is a DenseNet-BC: three
    bottleneck layers in each block, and transitions that keep `compression` of the channels.
    `block` basic with compression 1 is the plain DenseNet, with six layers in each block.

    >>> sum(p.numel() for p in DenseNet22().build().parameters())
    71686
    >>> sum(p.numel() for p in DenseNet22(block="basic", compression=1).build().parameters())
    290986
    """

    growth: Annotated[int, Field(ge=1, le=1024)] = 12
    block: Literal["bottleneck", "basic"] = "bottleneck"
    compression: Annotated[float, Field(gt=0, le=1)] = 0.5
    channels: Annotated[int, Field(ge=1, le=1024)] = 3
    classes: Annotated[int, Field(ge=2, le=100_000)] = 10

    @staticmethod
    def suggest(shapes: Shapes) -> list[dict[str, Any]]:
        """The parameters of the networks that a state dict of these shapes may be of."""
        names = ("conv1.weight", "dense1.0.conv1.weight", "trans1.conv1.weight")
        if not has_names(shapes, *names):
            return []
        is_bottleneck = "dense1.0.conv2.weight" in shapes
        layers = count_numbered(shapes, r"dense1\.\d+\.conv1\.weight")
        if layers != CONVOLUTIONS // (6 if is_bottleneck else 3):
            return []
        writes, reads, *_ = shapes["trans1.conv1.weight"]
        return [
            {
                "growth": shapes["conv1.weight"][0] // 2,
                "block": "bottleneck" if is_bottleneck else "basic",
                "compression": writes / reads,
            }
        ]

    def build(self) -> nn.Module:
        """The network with Kaiming-normal weights."""
        bottleneck = self.block == "bottleneck"
        net = DenseNet(
            bottleneck=bottleneck,
            # Three blocks, and a bottleneck layer has two convolutions.
            layers=CONVOLUTIONS // 6 if bottleneck else CONVOLUTIONS // 3,
            growth=self.growth,
            compression=self.compression,
            channels=self.channels,
            classes=self.classes,
        )
        draw_kaiming_normal_(net)
        return net
