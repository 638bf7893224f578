"""What convolutional networks for images of any size share."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class AnySize:
    """An architecture with `channels` and `classes` that takes images of any size."""

    channels: int
    classes: int

    @property
    def input_shape(self) -> tuple[int | None, int | None, int | None]:
        """Any image size (an architecture may have a `smallest`)."""
        return self.channels, None, None

    @property
    def outputs(self) -> int:
        """Number of classes."""
        return self.classes


class Scaled(AnySize):
    """One with fields `depth` and `width`, a factor on the channels: members of a family."""

    @staticmethod
    def member(depth: int, width: float) -> dict[str, Any]:
        """In a family: layers as `depth` counts them, channels times `width`."""
        return {"depth": depth, "width": width}


def draw_kaiming_normal_(net: nn.Module) -> None:
    """Draw the weight of every Linear and Conv2d anew, in place; what is on the meta device has
    none.
    """
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and module.weight.device != torch.device(
            "meta"
        ):
            nn.init.kaiming_normal_(module.weight)
