"""Snow: bright streaks before a whitened scene.

Source: Hendrycks and Dietterich, Benchmarking neural network robustness to common corruptions and
perturbations, ICLR 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruning.data.corruptions import (
    Strength,
    Table,
    compute_luma,
    corruptions,
    round_to_grey_levels,
)
from pruning.data.corruptions._linear import apply_separable, build_zooming, measure_enlargement
from pruning.data.corruptions._streaks import apply_streaks, draw_angles
from pruning.data.keyed_random import Draws


def draw_flakes(height: int, width: int, strength: Strength, draws: Draws) -> Tensor:
    """A layer of flakes: levels (N, 1, H, W).

    It is N(loc, scale) enlarged by `zoom`, 0 below `threshold`, blurred along an angle U(-135, -45)
    in degrees.
    """
    loc, scale, zoom, threshold, radius, sigma, _ = strength
    rows = build_zooming(height, *measure_enlargement(height, zoom))
    columns = build_zooming(width, *measure_enlargement(width, zoom))
    field = apply_separable(draws.normal(1, height, width), rows, columns)
    field = field.mul_(scale).add_(loc)
    layer = field.mul_(field >= threshold).clamp_(0.0, 1.0).mul_(255.0).to(torch.uint8)
    angles = draw_angles(-135.0, -45.0, draws, stream=1)
    return apply_streaks(layer, angles, int(radius), sigma).round_()


@corruptions.register("snow")
@dataclass(frozen=True)
class Snow:
    """mix x + (1 - mix) max(x, 1.5 grey + 0.5) + s + (s turned by 180 degrees), s blurred flakes.

    Constants: loc, scale, zoom, threshold, blur radius and sigma in pixels, mix.

    >>> black = torch.zeros(1, 3, 9, 9, dtype=torch.uint8)
    >>> snowed = Snow().apply(
    ...     black, (0.1, 0.3, 3, 0.5, 10, 4, 0.8), Draws.from_key(0, indices=torch.arange(1))
    ... )
    >>> snowed.min().item(), torch.equal(snowed, snowed.flip(2, 3))
    (25, True)
    """

    cifar: ClassVar[Table] = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )
    imagenet: ClassVar[Table] = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )

    def apply(self, images: Tensor, strength: Strength, draws: Draws) -> Tensor:
        """Put flakes of its own over each image, falling at an angle of its own."""
        height, width = images.shape[-2:]
        mix = strength[-1]
        layer = draw_flakes(height, width, strength, draws)
        levels = images.to(torch.float32)
        white = torch.maximum(levels, compute_luma(levels).mul(1.5).add_(127.5))
        whitened = levels.mul_(mix).add_(white.mul_(1.0 - mix))
        return round_to_grey_levels(whitened.add_(layer + layer.flip(2, 3)))
