"""The CIFAR ResNet family (He et al., CVPR, ECCV 2016).

Networks have three stages of basic blocks, depth 6n + 2, or of bottlenecks, depth 9n + 2. Parameter
names follow akamaster/pytorch_resnet_cifar10, so its checkpoints load as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.architectures import architectures
from pruning.architectures._channel_map import ChannelMap
from pruning.architectures._convolutional import ScaledArchitecture, draw_kaiming_normal_
from pruning.architectures._shapes import Shapes, count_numbered, has_names
from pruning.errors import ParameterError


class Shortcut(ChannelMap):
    """The parameter-free shortcut (option A): every `stride`-th pixel, new channels of zeros.

    The new channels lie on both sides of the old ones.
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        before = (channels - channels_in) // 2
        sources = [channel - before for channel in range(channels)]
        super().__init__(
            channels_in, [source if 0 <= source < channels_in else -1 for source in sources]
        )
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        with_zeros = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, 1))
        # The source -1 (none) becomes the number of the channel of zeros, which is the last.
        return with_zeros.index_select(1, self.sources % with_zeros.shape[1])


def build_shortcut(channels_in: int, channels: int, stride: int, projection: bool) -> nn.Module:
    """The shortcut around a block.

    It is the identity; where the shape changes, option A or a projection (option B).
    """
    if stride == 1 and channels_in == channels:
        return nn.Identity()
    if not projection:
        return Shortcut(channels_in, channels, stride)
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
    )


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, channels_in: int, channels: int, stride: int, projection: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = build_shortcut(channels_in, channels, stride, projection)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution, the last to 4 times the channels, and a shortcut."""

    expansion = 4

    def __init__(self, channels_in: int, channels: int, stride: int, projection: bool) -> None:
        super().__init__()
        wide = self.expansion * channels
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, wide, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(wide)
        self.shortcut = build_shortcut(channels_in, wide, stride, projection)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """Stem, three stages of blocks, global average pooling, classifier."""

    def __init__(
        self,
        *,
        block: type[Block | Bottleneck],
        blocks: int,
        widths: tuple[int, int, int],
        channels: int,
        classes: int,
        projection: bool,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        stages = []
        width_in = widths[0]
        for stage, width in enumerate(widths):
            strides = [1 if stage == 0 else 2] + [1] * (blocks - 1)
            wide = block.expansion * width
            stage_blocks = []
            for stride in strides:
                stage_blocks.append(block(width_in, width, stride, projection))
                width_in = wide
            stages.append(nn.Sequential(*stage_blocks))
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(width_in, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, classes)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.linear(out.mean((2, 3)))  # type: ignore[no-any-return]


@architectures.register("cifar_resnet")
@dataclass(frozen=True, kw_only=True)
class CifarResNet(ScaledArchitecture):
    """CIFAR ResNet: stages of 16, 32, 64 channels times `width`, depth 6n + 2, 9n + 2 (bottleneck).

    `shortcut` A is parameter-free (subsampling and zero channels), B a 1x1 projection. The
    networks that the code of Lost in Pruning calls ResNet-56 and ResNet-110 have 9 and 18
    bottlenecks in each stage and projections: depths 83 and 164 as counted here.

    >>> def size(**options):
    ...     return sum(p.numel() for p in CifarResNet(**options).build().parameters())
    >>> size(depth=20), size(depth=20, shortcut="B"), size(depth=56), size(depth=110)
    (269722, 272474, 853018, 1727962)
    >>> (
    ...     size(depth=83, block="bottleneck", shortcut="B"),
    ...     size(depth=164, block="bottleneck", shortcut="B"),
    ... )
    (869530, 1704154)
    """

    depth: Annotated[int, Field(ge=8, le=1202)] = 20
    width: Annotated[float, Field(gt=0, le=64)] = 1.0
    shortcut: Literal["A", "B"] = "A"
    block: Literal["basic", "bottleneck"] = "basic"
    channels: Annotated[int, Field(ge=1, le=1024)] = 3
    classes: Annotated[int, Field(ge=2, le=100_000)] = 10

    def __post_init__(self) -> None:
        if self.block == "basic" and (self.depth - 2) % 6:
            raise ParameterError(
                f"depth {self.depth} is not 6n + 2 (8, 14, 20, 26, 32, ...)", pointer="depth"
            )
        if self.block == "bottleneck" and (self.depth - 2) % 9:
            raise ParameterError(
                f"depth {self.depth} is not 9n + 2 (11, 20, 29, 83, 164, ...), as bottlenecks need",
                pointer="depth",
            )

    @staticmethod
    def suggest(shapes: Shapes) -> list[dict[str, Any]]:
        """The parameters of the networks that a state dict of these shapes may be of."""
        names = ("conv1.weight", "layer3.0.conv1.weight", "linear.weight")
        if not has_names(shapes, *names) or "layer4.0.conv1.weight" in shapes:
            return []
        blocks = count_numbered(shapes, r"layer1\.\d+\.conv1\.weight")
        is_basic = "layer1.0.conv3.weight" not in shapes
        projects = "layer2.0.shortcut.0.weight" in shapes
        return [
            {
                "depth": (6 if is_basic else 9) * blocks + 2,
                "width": shapes["conv1.weight"][0] / 16,
                "shortcut": "B" if projects else "A",
                "block": "basic" if is_basic else "bottleneck",
            }
        ]

    def build(self) -> nn.Module:
        """The network with Kaiming-normal weights."""
        w1, w2, w3 = (max(1, round(width * self.width)) for width in (16, 32, 64))
        is_basic = self.block == "basic"
        blocks = (self.depth - 2) // (6 if is_basic else 9)  # depth 6n + 2, or 9n + 2
        net = ResNet(
            block=Block if is_basic else Bottleneck,
            blocks=blocks,
            widths=(w1, w2, w3),
            channels=self.channels,
            classes=self.classes,
            projection=self.shortcut == "B",
        )
        draw_kaiming_normal_(net)
        return net
