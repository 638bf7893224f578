"""Pixelate: a picture enlarged from too few pixels.

Source: Hendrycks and Dietterich, Benchmarking neural network robustness to common corruptions and
perturbations, ICLR 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pruning.data.corruptions import Strength, Table, corruptions
from pruning.data.keyed_random import Draws

BITS = 22
"""Pillow's weights are multiples of 2^-22."""


@lru_cache(maxsize=64)
def build_boxes(length: int, wanted: int) -> Tensor:
    """Pillow's box filter from `length` to `wanted` places: weights 2^22 w, float64 (wanted,
    length).

    A place is the mean of those whose middles lie within half its width of its own middle.

    >>> (build_boxes(4, 2) / 2**22).tolist()
    [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    """
    scale = length / wanted
    reach, weights = max(scale, 1.0), np.zeros((wanted, length))
    for i in range(wanted):
        middle = (i + 0.5) * scale
        begin, end = (
            max(int(middle - reach / 2 + 0.5), 0),
            min(int(middle + reach / 2 + 0.5), length),
        )
        apart = (np.arange(begin, end) + 0.5 - middle) / reach
        inside = ((apart > -0.5) & (apart <= 0.5)).astype(np.float64)
        weights[i, begin:end] = np.floor(inside / inside.sum() * (1 << BITS) + 0.5)
    return torch.from_numpy(weights)


def resize_with_boxes(images: Tensor, height: int, width: int) -> Tensor:
    """What Pillow's resize with BOX gives, bit by bit: across, rounded, then down, rounded; uint8
    (N, C, height, width).
    """
    levels = images.to(torch.float64)
    if width != levels.shape[3]:
        levels = _rounded(levels @ build_boxes(levels.shape[3], width).to(images.device).T)
    if height != levels.shape[2]:
        levels = _rounded(
            torch.matmul(build_boxes(levels.shape[2], height).to(images.device), levels)
        )
    return levels.to(torch.uint8)


def _rounded(sums: Tensor) -> Tensor:
    return sums.mul_(1.0 / (1 << BITS)).add_(0.5).floor_().clamp_(0.0, 255.0)


@corruptions.register("pixelate")
@dataclass(frozen=True)
class Pixelate:
    """Reduced to floor(c H) by floor(c W) pixels, at least 1, and enlarged again, both with a box
    filter.

    >>> image = torch.tensor([0, 100, 200, 200], dtype=torch.uint8).view(1, 1, 1, 4)
    >>> Pixelate().apply(image, (0.5,), Draws.keyed(0, indices=torch.arange(1))).flatten().tolist()
    [50, 50, 200, 200]
    """

    cifar: ClassVar[Table] = (0.95,), (0.9,), (0.85,), (0.75,), (0.65,)
    imagenet: ClassVar[Table] = (0.6,), (0.5,), (0.4,), (0.3,), (0.25,)

    def apply(self, images: Tensor, strength: Strength, draws: Draws) -> Tensor:
        """Alike for every image."""
        height, width = images.shape[-2:]
        small = resize_with_boxes(
            images, max(int(height * strength[0]), 1), max(int(width * strength[0]), 1)
        )
        return resize_with_boxes(small, height, width)
