"""Pre-activation ResNets with four stages for small images (He et al., Identity mappings in deep
residual networks, ECCV 2016).

They are those of the code of Laurent et al., Revisiting loss modelling for unstructured pruning,
2020: the classifier is a 1x1 convolution without bias, and BatchNorm follows it. Parameter names
are its.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.architectures import architectures
from pruning.architectures._convolutional import ScaledArchitecture, draw_kaiming_normal_
from pruning.architectures._shapes import Shapes, count_numbered, has_names
from pruning.architectures.wide_resnet import Block

BLOCKS: dict[int, tuple[int, int, int, int]] = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
"""The numbers of blocks in the four stages, by depth."""
WIDTHS = (64, 128, 256, 512)


class PreActNet(nn.Module):
    """Stem, four stages of pre-activation blocks, pooling, and a classifier with BatchNorm."""

    def __init__(
        self,
        blocks: tuple[int, ...],
        widths: tuple[int, ...],
        *,
        channels: int,
        classes: int,
    ) -> None:
        super().__init__()
        width_in = widths[0]
        self.conv1 = nn.Conv2d(channels, width_in, 3, 1, 1, bias=False)
        stages = []
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            blocks_of_stage = []
            for number in range(count):
                stride = 2 if stage > 0 and number == 0 else 1
                blocks_of_stage.append(Block(width_in, width, stride))
                width_in = width
            stages.append(nn.Sequential(*blocks_of_stage))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.bn1 = nn.BatchNorm2d(width_in)
        self.linear = nn.Conv2d(width_in, classes, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, classes)."""
        out = self.layer2(self.layer1(self.conv1(x)))
        out = F.relu(self.bn1(self.layer4(self.layer3(out))))
        pooled = out.mean((2, 3), keepdim=True)
        return self.bn2(self.linear(pooled)).flatten(1)  # type: ignore[no-any-return]


@architectures.register("preact_resnet")
@dataclass(frozen=True)
class PreActResNet(ScaledArchitecture):
    """PreActResNet-18 or -34 for CIFAR: stages of 64, 128, 256, 512 channels times `width`.

    BatchNorm and ReLU come before each convolution, and BatchNorm after the classifier.

    >>> sum(p.numel() for p in PreActResNet().build().parameters())
    11172180
    """

    depth: Literal[18, 34] = 18
    width: Annotated[float, Field(gt=0, le=16)] = 1.0
    channels: Annotated[int, Field(ge=1, le=1024)] = 3
    classes: Annotated[int, Field(ge=2, le=100_000)] = 10

    @staticmethod
    def suggest(shapes: Shapes) -> list[dict[str, Any]]:
        """The parameters of the networks that a state dict of these shapes may be of."""
        if not has_names(shapes, "conv1.weight", "layer4.0.bn1.weight", "linear.weight"):
            return []
        blocks = count_numbered(shapes, r"layer1\.\d+\.conv1\.weight")
        depth = 18 if blocks == BLOCKS[18][0] else 34
        return [{"depth": depth, "width": shapes["conv1.weight"][0] / WIDTHS[0]}]

    def build(self) -> nn.Module:
        """The network with Kaiming-normal weights."""
        widths = tuple(max(1, round(width * self.width)) for width in WIDTHS)
        net = PreActNet(BLOCKS[self.depth], widths, channels=self.channels, classes=self.classes)
        draw_kaiming_normal_(net)
        return net
