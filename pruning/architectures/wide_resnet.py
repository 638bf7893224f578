"""Wide residual networks for CIFAR (Zagoruyko and Komodakis, BMVC 2016).

They have pre-activation blocks, and depth 6n + 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.architectures import architectures
from pruning.architectures._convolutional import ScaledArchitecture, draw_kaiming_normal_
from pruning.architectures._shapes import Shapes, count_numbered, has_names
from pruning.errors import ParameterError


class Block(nn.Module):
    """BatchNorm and ReLU before each of two 3x3 convolutions.

    The shortcut is the input itself; where the shape changes, a 1x1 convolution of the output of
    the first ReLU.
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        changes = stride != 1 or channels_in != channels
        self.shortcut = nn.Conv2d(channels_in, channels, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        out = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(out)
        return self.conv2(F.relu(self.bn2(self.conv1(out)))) + shortcut  # type: ignore[no-any-return]


class WideNet(nn.Module):
    """Stem of 16 channels, three stages of blocks, BatchNorm, ReLU, pooling and classifier.

    The pooling is a global average.
    """

    def __init__(
        self, blocks: int, widths: tuple[int, int, int], channels: int, classes: int
    ) -> None:
        super().__init__()
        width_in = 16
        self.conv1 = nn.Conv2d(channels, width_in, 3, 1, 1, bias=False)
        stages = []
        for stage, width in enumerate(widths):
            strides = [1 if stage == 0 else 2] + [1] * (blocks - 1)
            blocks_of_stage = []
            for stride in strides:
                blocks_of_stage.append(Block(width_in, width, stride))
                width_in = width
            stages.append(nn.Sequential(*blocks_of_stage))
        self.layer1, self.layer2, self.layer3 = stages
        self.bn = nn.BatchNorm2d(width_in)
        self.linear = nn.Linear(width_in, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, classes)."""
        out = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.linear(F.relu(self.bn(out)).mean((2, 3)))  # type: ignore[no-any-return]


@architectures.register("wide_resnet")
@dataclass(frozen=True)
class WideResNet(ScaledArchitecture):
    """WRN-d-k for CIFAR: depth d = 6n + 4, stages of 16, 32, 64 channels times the width k.

    There is no dropout.

    >>> sum(p.numel() for p in WideResNet(depth=16, width=8).build().parameters())
    10961370
    """

    depth: Annotated[int, Field(ge=10, le=1204)] = 16
    width: Annotated[float, Field(gt=0, le=64)] = 8.0
    channels: Annotated[int, Field(ge=1, le=1024)] = 3
    classes: Annotated[int, Field(ge=2, le=100_000)] = 10

    def __post_init__(self) -> None:
        if (self.depth - 4) % 6:
            raise ParameterError(
                f"depth {self.depth} is not 6n + 4 (10, 16, 22, 28, 34, 40, ...)", pointer="depth"
            )

    @staticmethod
    def suggest(shapes: Shapes) -> list[dict[str, Any]]:
        """The parameters of the networks that a state dict of these shapes may be of."""
        if not has_names(shapes, "layer1.0.conv1.weight", "layer3.0.conv1.weight", "bn.weight"):
            return []
        blocks = count_numbered(shapes, r"layer1\.\d+\.conv1\.weight")
        return [{"depth": 6 * blocks + 4, "width": shapes["layer1.0.conv1.weight"][0] / 16}]

    def build(self) -> nn.Module:
        """The network with Kaiming-normal weights."""
        w1, w2, w3 = (max(1, round(width * self.width)) for width in (16, 32, 64))
        net = WideNet((self.depth - 4) // 6, (w1, w2, w3), self.channels, self.classes)
        draw_kaiming_normal_(net)
        return net
