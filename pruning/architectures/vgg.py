"""The VGG family for small images (Simonyan and Zisserman, 2015).

Networks have 3x3 convolutions with BatchNorm, and one linear classifier. Parameter names follow
kuangliu/pytorch-cifar, so its checkpoints load as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from pruning.architectures import architectures
from pruning.architectures._convolutional import ScaledArchitecture, draw_kaiming_normal_
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
        self, convolutions: tuple[int, ...], widths: tuple[int, ...], channels: int, classes: int
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for count, width in zip(convolutions, widths, strict=True):
            for _ in range(count):
                layers += [
                    nn.Conv2d(channels, width, 3, padding=1),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                ]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, classes)
        # Not in `forward`, whose course must not depend on its input: it is traced.
        self.register_forward_pre_hook(_refuse_small)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, classes); `DataError` where H or W is below 32."""
        return self.classifier(self.features(x).mean((2, 3)))  # type: ignore[no-any-return]


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
    """VGG with BatchNorm, depth 11, 13, 16, 19: stages of 64, 128, 256, 512, 512 times `width`.

    The classifier is one linear layer on the global average, as used on CIFAR, so images of at
    least 32 pixels fit.

    >>> sum(p.numel() for p in Vgg(depth=16).build().parameters())
    14728266
    """

    smallest: ClassVar[int] = SMALLEST
    depth: Literal[11, 13, 16, 19] = 16
    width: Annotated[float, Field(gt=0, le=16)] = 1.0
    channels: Annotated[int, Field(ge=1, le=1024)] = 3
    classes: Annotated[int, Field(ge=2, le=100_000)] = 10

    def build(self) -> nn.Module:
        """The network with Kaiming-normal weights."""
        widths = tuple(max(1, round(width * self.width)) for width in WIDTHS)
        net = VggNet(CONVOLUTIONS[self.depth], widths, self.channels, self.classes)
        draw_kaiming_normal_(net)
        return net
