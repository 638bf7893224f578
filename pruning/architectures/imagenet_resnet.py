"""ResNets for ImageNet of any width (He et al., CVPR 2016), as a family."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.architectures import architectures
from pruning.architectures._convolutional import ScaledArchitecture, draw_kaiming_normal_
from pruning.architectures._shapes import Shapes, count_numbered, has_names

BLOCKS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""The numbers of blocks in the four stages, by depth; from 50 layers on they are bottlenecks."""
WIDTHS = (64, 128, 256, 512)
EXPANSION = 4
"""The outputs of a bottleneck for each of its inner channels."""


class Block(nn.Module):
    """Two 3x3 convolutions, or a bottleneck whose 3x3 convolution has the stride, and a shortcut.

    The shortcut is a projection where the shape changes.
    """

    def __init__(self, channels_in: int, channels: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        wide = EXPANSION * channels if bottleneck else channels
        if bottleneck:
            shapes = [(channels_in, channels, 1, 1), (channels, channels, 3, stride)]
            shapes.append((channels, wide, 1, 1))
        else:
            shapes = [(channels_in, channels, 3, stride), (channels, channels, 3, 1)]
        self.count = len(shapes)
        for number, (reads, writes, kernel, step) in enumerate(shapes, start=1):
            conv = nn.Conv2d(reads, writes, kernel, step, kernel // 2, bias=False)
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", nn.BatchNorm2d(writes))
        self.downsample = None
        if stride != 1 or channels_in != wide:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, wide, 1, stride, bias=False), nn.BatchNorm2d(wide)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        out = x
        for number in range(1, self.count + 1):
            conv, norm = self.get_submodule(f"conv{number}"), self.get_submodule(f"bn{number}")
            out = norm(conv(out))
            if number < self.count:
                out = F.relu(out)
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(out + shortcut)


@architectures.register("imagenet_resnet")
@dataclass(frozen=True)
class ImageNetResNet(ScaledArchitecture):
    """ResNet-18, -34, -50, -101, -152: stages of 64, 128, 256, 512 channels times `width`.

    At width 1 they are torchvision's, and have its parameter names.

    >>> sum(p.numel() for p in ImageNetResNet(18, classes=1000).build().parameters())
    11689512
    """

    depth: Literal[18, 34, 50, 101, 152] = 50
    width: Annotated[float, Field(gt=0, le=16)] = 1.0
    channels: Annotated[int, Field(ge=1, le=1024)] = 3
    classes: Annotated[int, Field(ge=2, le=100_000)] = 1000

    @staticmethod
    def suggest(shapes: Shapes) -> list[dict[str, Any]]:
        """The parameters of the networks that a state dict of these shapes may be of."""
        if not has_names(shapes, "conv1.weight", "layer4.0.conv1.weight", "fc.weight"):
            return []
        stages = [count_numbered(shapes, rf"layer{i}\.\d+\.conv1\.weight") for i in range(1, 5)]
        width = shapes["conv1.weight"][0] / WIDTHS[0]
        if width == 1 and shapes["conv1.weight"][1] == 3:
            return []  # torchvision's, which is named instead
        is_bottleneck = "layer1.0.conv3.weight" in shapes
        return [
            {"depth": depth, "width": width}
            for depth, blocks in BLOCKS.items()
            if list(blocks) == stages and (depth >= 50) == is_bottleneck
        ]

    def build(self) -> nn.Module:
        """The network with Kaiming-normal weights."""
        bottleneck = self.depth >= 50
        widths = [max(1, round(width * self.width)) for width in WIDTHS]
        width_in = widths[0]
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(self.channels, width_in, 7, 2, 3, bias=False),
            bn1=nn.BatchNorm2d(width_in),
            relu=nn.ReLU(),
            maxpool=nn.MaxPool2d(3, 2, 1),
        )
        for stage, (count, width) in enumerate(zip(BLOCKS[self.depth], widths, strict=True), 1):
            blocks = []
            for number in range(count):
                stride = 2 if stage > 1 and number == 0 else 1
                blocks.append(Block(width_in, width, stride, bottleneck))
                width_in = width * (EXPANSION if bottleneck else 1)
            parts[f"layer{stage}"] = nn.Sequential(*blocks)
        parts["avgpool"] = nn.AdaptiveAvgPool2d(1)
        parts["flatten"] = nn.Flatten()
        parts["fc"] = nn.Linear(width_in, self.classes)
        net = nn.Sequential(parts)
        draw_kaiming_normal_(net)
        return net
