"""Fog: fractal clouds before the scene.

Source: Hendrycks and Dietterich, Benchmarking neural network robustness to common corruptions and
perturbations, ICLR 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruning.data.corruptions import Strength, Table, corruptions, round_to_grey_levels
from pruning.data.corruptions._plasma import draw_plasma
from pruning.data.keyed_random import Draws


@corruptions.register("fog")
@dataclass(frozen=True)
class Fog:
    """(x + c p) max(x) / (max(x) + c), p the corner of a plasma map in [0, 1] of the given decay.

    The map is 32 or 256 pixels wide, or the next power of 2 for a larger image. Constants: c,
    decay, width of the map.

    >>> dark = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    >>> Fog().apply(dark, (1, 2, 32), Draws.from_key(0, indices=torch.arange(1))).max().item()
    0
    """

    cifar: ClassVar[Table] = (
        (0.2, 3, 32),
        (0.5, 3, 32),
        (0.75, 2.5, 32),
        (1, 2, 32),
        (1.5, 1.75, 32),
    )
    imagenet: ClassVar[Table] = (
        (1.5, 2, 256),
        (2, 2, 256),
        (2.5, 1.7, 256),
        (2.5, 1.5, 256),
        (3, 1.4, 256),
    )

    def apply(self, images: Tensor, strength: Strength, draws: Draws) -> Tensor:
        """Put each image behind clouds of its own."""
        height, width = images.shape[-2:]
        strength_of_fog, decay, map_width = strength
        density = 255.0 * strength_of_fog
        next_power_of_2 = 1 << (max(height, width) - 1).bit_length()
        side = max(int(map_width), next_power_of_2)
        clouds = draw_plasma(side, decay, draws)[:, None, :height, :width]
        brightest = images.flatten(1).amax(1).to(torch.float32)[:, None, None, None]
        foggy = (clouds * density).add(images).mul_(brightest / (brightest + density))
        return round_to_grey_levels(foggy)
