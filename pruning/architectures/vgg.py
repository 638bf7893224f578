"""The VGG family for small images (Simonyan and Zisserman, 2015).

Networks have 3x3 convolutions with or without BatchNorm, and one linear classifier or several
linear layers. Parameter names follow kuangliu/pytorch-cifar, so its checkpoints load as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from pruning.architectures import architectures
from pruning.architectures._convolutional import (
    ScaledArchitecture,
    draw_kaiming_normal_,
    zero_biases_,
)
from pruning.architectures._shapes import Shapes, count_numbered, has_names
from pruning.errors import DataError

CONVOLUTIONS: dict[int, tuple[int, int, int, int, int]] = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""The numbers of convolutions in the five stages, by depth."""
WIDTHS = (64, 128, 256, 512, 512)
SMALLEST = 32
"""The rows and columns of the smallest image: each stage halves them."""


class VggNet(nn.Module):
    """Five stages of convolutions and a max pooling, global average pooling, classifier."""

    def __init__(
        self,
        stages: Iterable[tuple[int, int]],
        *,
        channels: int,
        classes: int,
        batchnorm: bool,
        head: tuple[int, ...],
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for count, width in stages:
            for _ in range(count):
                layers.append(nn.Conv2d(channels, width, 3, padding=1))
                if batchnorm:
                    layers.append(nn.BatchNorm2d(width))
                layers.append(nn.ReLU())
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = _build_head(channels, head, classes)
        # Not in `forward`, whose course must not depend on its input: it is traced.
        self.register_forward_pre_hook(_refuse_small)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, classes); `DataError` where H or W is below 32."""
        return self.classifier(self.features(x).mean((2, 3)))  # type: ignore[no-any-return]


def _build_head(channels: int, hidden: tuple[int, ...], classes: int) -> nn.Module:
    """One linear layer, or several with ReLU between them."""
    if not hidden:
        return nn.Linear(channels, classes)
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(channels, width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.Linear(channels, classes))


def _refuse_small(net: nn.Module, args: tuple[Any, ...]) -> None:
    """Raise `DataError` for images that the stages would leave without pixels."""
    height, width = args[0].shape[-2:]
    if min(height, width) < SMALLEST:
        raise DataError(
            f"VGG takes images of at least {SMALLEST} x {SMALLEST} pixels, these have {height} x "
            f"{width}"
        )


@architectures.register("vgg")
@dataclass(frozen=True)
class Vgg(ScaledArchitecture):
    """VGG, depth 11, 13, 16, 19: stages of 64, 128, 256, 512, 512 channels times `width`.

    The classifier is one linear layer on the global average, as used on CIFAR, so images of at
    least 32 pixels fit; `head` puts hidden layers of so many units times `width` before it. Without
    `batchnorm` biases start at zero.

    >>> sum(p.numel() for p in Vgg(depth=16).build().parameters())
    14728266
    >>> sum(p.numel() for p in Vgg(11, batchnorm=False, head=(512, 512)).build().parameters())
    9750922
    """

    smallest: ClassVar[int] = SMALLEST
    depth: Literal[11, 13, 16, 19] = 16
    width: Annotated[float, Field(gt=0, le=16)] = 1.0
    channels: Annotated[int, Field(ge=1, le=1024)] = 3
    classes: Annotated[int, Field(ge=2, le=100_000)] = 10
    batchnorm: bool = True
    head: Annotated[
        tuple[Annotated[int, Field(ge=1, le=100_000)], ...],
        Field(max_length=8, description="units of the hidden layers before the classifier"),
    ] = ()

    @staticmethod
    def suggest(shapes: Shapes) -> list[dict[str, Any]]:
        """The parameters of the networks that a state dict of these shapes may be of."""
        matches = [re.fullmatch(r"classifier\.(\d+)\.weight", name) for name in shapes]
        head = sorted(int(match[1]) for match in matches if match)
        last = f"classifier.{head[-1]}.weight" if head else "classifier.weight"
        if not has_names(shapes, "features.0.weight", last):
            return []
        if len(shapes["features.0.weight"]) != 4:
            return []
        convolutions = sum(
            name.startswith("features.") and len(shape) == 4 for name, shape in shapes.items()
        )
        has_batchnorm = count_numbered(shapes, r"features\.\d+\.running_mean") > 0
        width = shapes["features.0.weight"][0] / WIDTHS[0]
        return [
            {
                "depth": depth,
                "width": width,
                "batchnorm": has_batchnorm,
                "head": [
                    round(shapes[f"classifier.{number}.weight"][0] / width) for number in head[:-1]
                ],
            }
            for depth, stages in CONVOLUTIONS.items()
            if sum(stages) == convolutions
        ]

    def build(self) -> nn.Module:
        """The network with Kaiming-normal weights."""
        widths = (self._scale(width) for width in WIDTHS)
        net = VggNet(
            zip(CONVOLUTIONS[self.depth], widths, strict=True),
            channels=self.channels,
            classes=self.classes,
            batchnorm=self.batchnorm,
            head=tuple(self._scale(width) for width in self.head),
        )
        draw_kaiming_normal_(net)
        if not self.batchnorm:
            zero_biases_(net)
        return net

    def _scale(self, width: int) -> int:
        """A number of channels or units times the width, at least one."""
        return max(1, round(width * self.width))
