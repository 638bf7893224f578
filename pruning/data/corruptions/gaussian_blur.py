"""Gaussian blur.

Source: Hendrycks and Dietterich, Benchmarking neural network robustness to common corruptions and
perturbations, ICLR 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pruning.data.corruptions import Strength, Table, corruptions, round_to_grey_levels
from pruning.data.corruptions._linear import apply_separable, build_smoothing
from pruning.data.keyed_random import Draws


def blur_images(images: Tensor, sigma: float) -> Tensor:
    """Blur uint8 images by a Gaussian of `sigma` pixels cut at 4 sigma.

    Edges are continued by their nearest pixel.

    >>> import torch
    >>> point = torch.zeros(1, 1, 1, 5, dtype=torch.uint8)
    >>> point[..., 2] = 100
    >>> blur_images(point, 0.5).flatten().tolist()
    [0, 10, 78, 10, 0]
    """
    height, width = images.shape[-2:]
    rows = build_smoothing(height, sigma, 4.0, "nearest")
    columns = build_smoothing(width, sigma, 4.0, "nearest")
    return round_to_grey_levels(apply_separable(images, rows, columns))


@corruptions.register("gaussian_blur")
@dataclass(frozen=True)
class GaussianBlur:
    """G_sigma * x, sigma in pixels, cut at 4 sigma: a picture out of focus, softly."""

    cifar: ClassVar[Table] = (0.4,), (0.6,), (0.7,), (0.8,), (1,)
    imagenet: ClassVar[Table] = (1,), (2,), (3,), (4,), (6,)

    def apply(self, images: Tensor, strength: Strength, draws: Draws) -> Tensor:
        """Blur every image alike."""
        return blur_images(images, strength[0])
