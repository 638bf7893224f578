"""The parts that convolutional networks for images of any size share."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class AnySizeArchitecture:
    """An architecture with `channels` and `classes` that takes images of any size."""

    channels: int
    classes: int

    @property
    def input_shape(self) -> tuple[int | None, int | None, int | None]:
        """The channels, and any image size (an architecture may have a `smallest`)."""
        return self.channels, None, None

    @property
    def outputs(self) -> int:
        """The number of classes."""
        return self.classes


class ScaledArchitecture(AnySizeArchitecture):
    """An architecture of a family, with fields `depth` and `width`, a factor on the channels."""

    @staticmethod
    def member(depth: int, width: float) -> dict[str, Any]:
        """The parameters of a member of a family: `depth`, and channels times `width`."""
        return {"depth": depth, "width": width}


def draw_kaiming_normal_(net: nn.Module) -> None:
    """Draw the weight of every Linear and Conv2d again, in place.

    Layers on the meta device hold no data and are left alone.
    """
    meta = torch.device("meta")
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and module.weight.device != meta:
            nn.init.kaiming_normal_(module.weight)


def zero_biases_(net: nn.Module) -> None:
    """Set the bias of every Linear and Conv2d to zero, in place."""
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
