"""The CIFAR ResNet family: depth 6n + 2, three stages, basic blocks (He et al., 2016).

Parameter names follow akamaster/pytorch_resnet_cifar10, so its checkpoints load as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.architectures import architectures
from pruning.errors import ParameterError
from pruning.slices import ChannelMap


class Shortcut(ChannelMap):
    """The parameter-free shortcut (option A): every second pixel, new channels filled with zeros on both sides."""

    def __init__(self, channels_in: int, channels: int) -> None:
        before = (channels - channels_in) // 2
        super().__init__(channels_in, [place - before if 0 <= place - before < channels_in else -1
                                       for place in range(channels)])

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', ceil(H/2), ceil(W/2))."""
        with_zeros = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, 1))
        return with_zeros.index_select(1, self.sources % with_zeros.shape[1])  # -1, no source, is the channel of zeros


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int, projection: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = Shortcut(channels_in, channels) if not projection else nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """Stem, three stages of blocks, global average pooling, classifier."""

    def __init__(self, blocks: int, widths: tuple[int, int, int], channels: int, classes: int, projection: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        stages = []
        width_in = widths[0]
        for stage, width in enumerate(widths):
            strides = [1 if stage == 0 else 2] + [1] * (blocks - 1)
            stages.append(nn.Sequential(*(Block(width_in if i == 0 else width, width, stride, projection)
                                          for i, stride in enumerate(strides))))
            width_in = width
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, classes)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.linear(out.mean((2, 3)))  # type: ignore[no-any-return]


@architectures.register("cifar_resnet")
@dataclass(frozen=True)
class CifarResNet:
    """CIFAR ResNet of depth 6n + 2 and three stages of 16, 32, 64 channels times `width`.

    `shortcut` A is parameter-free (subsampling and zero channels), B a 1x1 projection.

    >>> net = CifarResNet(depth=20).build()
    >>> sum(p.numel() for p in net.parameters())
    269722
    """

    depth: Annotated[int, Field(ge=8, le=1202)] = 20
    width: Annotated[float, Field(gt=0, le=64)] = 1.0
    shortcut: Literal["A", "B"] = "A"
    channels: Annotated[int, Field(ge=1, le=1024)] = 3
    classes: Annotated[int, Field(ge=2, le=100_000)] = 10

    def __post_init__(self) -> None:
        if (self.depth - 2) % 6:
            raise ParameterError(f"depth {self.depth} is not 6n + 2 (8, 14, 20, 26, 32, ...)", pointer="depth")

    @property
    def input_shape(self) -> tuple[int | None, int | None, int | None]:
        """Any image size."""
        return self.channels, None, None

    @property
    def outputs(self) -> int:
        """Number of classes."""
        return self.classes

    def build(self) -> nn.Module:
        """The network with Kaiming-normal weights."""
        w1, w2, w3 = (max(1, round(width * self.width)) for width in (16, 32, 64))
        net = ResNet((self.depth - 2) // 6, (w1, w2, w3), self.channels, self.classes, self.shortcut == "B")
        for module in net.modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and module.weight.device != torch.device("meta"):
                nn.init.kaiming_normal_(module.weight)
        return net
