"""Corruptions of test and training images, a file for each or for each family."""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from pruning.data.keyed_random import Draws
from pruning.registry import Registry

Strength: TypeAlias = tuple[float, ...]
"""The constants of one severity."""
Table: TypeAlias = tuple[Strength, Strength, Strength, Strength, Strength]
"""The constants of severities 1 to 5."""
Constants: TypeAlias = Literal["auto", "cifar", "imagenet"]
SMALL_SIDE = 64
"""`auto` takes the CIFAR constants for images whose shorter side is at most this many pixels."""
SEVERITIES = range(1, 6)


class Corruption(Protocol):
    """A corruption of images, with the constants of the paper's two benchmarks."""

    cifar: ClassVar[Table]
    imagenet: ClassVar[Table]

    def apply(self, images: Tensor, strength: Strength, draws: Draws) -> Tensor:
        """The corrupted images: uint8 (N, C, H, W), C 1 or 3, N at least 1, in and out.

        `draws` are the random numbers of the same N images.
        """


corruptions: Registry[Corruption] = Registry("corruption", __name__)


def list_standard_corruptions() -> list[str]:
    """The names of the corruptions that are meant where none are named; one with
    `asked_only = True`, a variant of another, is not among them.
    """
    return [
        name
        for name in corruptions.names()
        if not getattr(corruptions.get(name), "asked_only", False)
    ]


def choose_table(
    corruption: type[Corruption], constants: Constants, height: int, width: int
) -> Table:
    """The constants for images of a size: those of CIFAR-10-C (32 pixels) or ImageNet-C (224)."""
    if constants == "auto":
        constants = "cifar" if min(height, width) <= SMALL_SIDE else "imagenet"
    return corruption.cifar if constants == "cifar" else corruption.imagenet


def round_to_grey_levels(levels: Tensor) -> Tensor:
    """Levels as uint8, cut and not rounded, as the published archives are.

    The result is the floor of the levels clipped to [0, 255]. A value within 2^-10 below a level is
    that level, so that float32 does not darken an unchanged image. `levels` are overwritten.

    >>> round_to_grey_levels(torch.tensor([-3.0, 7.9, 7.9999, 300.0])).tolist()
    [0, 7, 8, 255]
    """
    return levels.add_(2.0**-10).clamp_(0.0, 255.0).to(torch.uint8)


LUMA = (0.299, 0.587, 0.114)
"""The weights of red, green and blue in the luma of a colour (ITU-R BT.601)."""


def compute_luma(levels: Tensor) -> Tensor:
    """The luma 0.299 R + 0.587 G + 0.114 B, or the only channel: (N, 1, H, W)."""
    if levels.shape[1] == 1:
        return levels
    red, green, blue = (levels[:, i : i + 1] * weight for i, weight in enumerate(LUMA))
    return red + green + blue


__all__ = [
    "LUMA",
    "SEVERITIES",
    "SMALL_SIDE",
    "Constants",
    "Corruption",
    "Strength",
    "Table",
    "choose_table",
    "compute_luma",
    "corruptions",
    "list_standard_corruptions",
    "round_to_grey_levels",
]
