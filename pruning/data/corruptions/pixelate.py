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
def build_boxes(length: int, size: int) -> Tensor:
    """Pillow's box filter from `length` to `size` places: weights 2^22 w, float64 (size, length).

    A new place is the mean of the old ones whose middles lie within half its width of its middle.

    >>> (build_boxes(4, 2) / 2**22).tolist()
    [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    """
    scale = length / size
    box_width = max(scale, 1.0)
    weights = np.zeros((size, length))
    for i in range(size):
        middle = (i + 0.5) * scale
        begin = max(int(middle - box_width / 2 + 0.5), 0)
        end = min(int(middle + box_width / 2 + 0.5), length)
        distance = (np.arange(begin, end) + 0.5 - middle) / box_width
        inside = ((distance > -0.5) & (distance <= 0.5)).astype(np.float64)
        weights[i, begin:end] = np.floor(inside / inside.sum() * (1 << BITS) + 0.5)
    return torch.from_numpy(weights)


def resize_with_boxes(images: Tensor, height: int, width: int) -> Tensor:
    """The result of Pillow's resize with BOX, bit by bit: uint8 (N, C, height, width).

    Pillow resizes across and rounds, then down and rounds.
    """
    levels = images.to(torch.float64)
    old_height, old_width = levels.shape[2:]
    if width != old_width:
        columns = build_boxes(old_width, width).to(images.device)
        levels = _round_as_pillow(levels @ columns.T)
    if height != old_height:
        rows = build_boxes(old_height, height).to(images.device)
        levels = _round_as_pillow(torch.matmul(rows, levels))
    return levels.to(torch.uint8)


def _round_as_pillow(sums: Tensor) -> Tensor:
    """Sums in units of 2^-22 as whole levels, half up, in place."""
    return sums.mul_(1.0 / (1 << BITS)).add_(0.5).floor_().clamp_(0.0, 255.0)


@corruptions.register("pixelate")
@dataclass(frozen=True)
class Pixelate:
    """Reduced to floor(c H) by floor(c W) pixels, at least 1, and enlarged again, by box filters.

    >>> image = torch.tensor([0, 100, 200, 200], dtype=torch.uint8).view(1, 1, 1, 4)
    >>> Pixelate().apply(
    ...     image, (0.5,), Draws.from_key(0, indices=torch.arange(1))
    ... ).flatten().tolist()
    [50, 50, 200, 200]
    """

    cifar: ClassVar[Table] = (0.95,), (0.9,), (0.85,), (0.75,), (0.65,)
    imagenet: ClassVar[Table] = (0.6,), (0.5,), (0.4,), (0.3,), (0.25,)

    def apply(self, images: Tensor, strength: Strength, draws: Draws) -> Tensor:
        """Pixelate every image alike."""
        (part,) = strength
        height, width = images.shape[-2:]
        small_height = max(int(height * part), 1)
        small_width = max(int(width * part), 1)
        small = resize_with_boxes(images, small_height, small_width)
        return resize_with_boxes(small, height, width)
