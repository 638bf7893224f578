"""Defocus blur: every point becomes a disk.

Source: Hendrycks and Dietterich, Benchmarking neural network robustness to common corruptions and
perturbations, ICLR 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import correlate1d
from torch import Tensor

from pruning.data.corruptions import Strength, Table, corruptions, round_to_grey_levels
from pruning.data.corruptions._linear import index_beyond, round_weights
from pruning.data.keyed_random import Draws


@lru_cache(maxsize=16)
def build_disk(radius: float, sigma: float) -> NDArray[np.float64]:
    """The kernel: a disk of `radius` pixels, sum 1, its edge softened by a Gaussian.

    The Gaussian has 3 x 3 pixels, 5 x 5 beyond radius 8. Empty margins are cut off; weights are
    multiples of 2^-16, so that sums of grey levels are exact in float32.

    >>> build_disk(0.3, 0.4).round(3).tolist()
    [[0.002, 0.037, 0.002], [0.037, 0.845, 0.037], [0.002, 0.037, 0.002]]
    """
    reach = max(8, int(radius))
    line = np.arange(-reach, reach + 1)
    disk = (line[:, None] ** 2 + line**2 <= radius**2).astype(np.float64)
    disk /= disk.sum()
    near = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    soft = np.exp(-0.5 * (near / sigma) ** 2)
    for axis in (0, 1):
        disk = correlate1d(disk, soft / soft.sum(), axis=axis, mode="mirror")
    kernel = round_weights(disk.ravel(), bits=16).reshape(disk.shape)
    margin = int(np.nonzero(kernel.any(0))[0][0])
    inner = slice(margin, len(kernel) - margin)
    return kernel[inner, inner]


def filter_images(images: Tensor, kernel: NDArray[np.float64]) -> Tensor:
    """Every image correlated with a kernel of odd size: float32 levels, exact.

    Images are mirrored beyond their edges.
    """
    height, width = images.shape[-2:]
    reach = len(kernel) // 2
    rows = torch.from_numpy(index_beyond(height, reach, reach, "mirror")).to(images.device)
    columns = torch.from_numpy(index_beyond(width, reach, reach, "mirror")).to(images.device)
    wide = images.index_select(2, rows).index_select(3, columns).to(torch.float32)
    filtered = torch.zeros(images.shape, dtype=torch.float32, device=images.device)
    for y, x in np.argwhere(kernel):
        shifted = wide[:, :, y : y + height, x : x + width]
        filtered.add_(shifted, alpha=float(kernel[y, x]))
    return filtered


@corruptions.register("defocus_blur")
@dataclass(frozen=True)
class DefocusBlur:
    """x correlated with a disk of a radius in pixels, its edge softened: a picture out of focus."""

    cifar: ClassVar[Table] = (0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)
    imagenet: ClassVar[Table] = (3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)

    def apply(self, images: Tensor, strength: Strength, draws: Draws) -> Tensor:
        """Blur every image alike."""
        return round_to_grey_levels(filter_images(images, build_disk(*strength)))
