"""Motion blur: the camera moves while the shutter is open.

Source: Hendrycks and Dietterich, Benchmarking neural network robustness to common corruptions and
perturbations, ICLR 2019; the kernel is that of the usual packages, which do without ImageMagick.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pruning.data.corruptions import Strength, Table, corruptions, round_to_grey_levels
from pruning.data.corruptions._streaks import apply_streaks, draw_angles
from pruning.data.keyed_random import Draws


@corruptions.register("motion_blur")
@dataclass(frozen=True)
class MotionBlur:
    """sum_i k_i x(p + s_i) along an angle U(-45, 45) degrees; k_i ~ exp(-i^2 / (2 sigma^2)).

    Constants: radius and sigma in pixels; i = 0 ... 2 radius.

    >>> import torch
    >>> grey = torch.full((1, 1, 3, 3), 90, dtype=torch.uint8)
    >>> MotionBlur().apply(
    ...     grey, (10, 3), Draws.from_key(0, indices=torch.arange(1))
    ... ).unique().tolist()
    [90]
    """

    cifar: ClassVar[Table] = (6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)
    imagenet: ClassVar[Table] = (10, 3), (15, 5), (15, 8), (15, 12), (20, 15)

    def apply(self, images: Tensor, strength: Strength, draws: Draws) -> Tensor:
        """Blur each image along its own angle."""
        radius, sigma = strength
        angles = draw_angles(-45.0, 45.0, draws)
        return round_to_grey_levels(apply_streaks(images, angles, int(radius), sigma))
