"""Elastic transform: the image stretched by an affine map and by a smooth random displacement.

Source: Hendrycks and Dietterich, Benchmarking neural network robustness to common corruptions and
perturbations, ICLR 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pruning.data.corruptions import Strength, Table, corruptions, round_to_grey_levels
from pruning.data.corruptions._linear import apply_separable, build_smoothing
from pruning.data.keyed_random import Draws

LARGE = 244 / 224


def sample_levels(levels: Tensor, down: Tensor, across: Tensor, *, mirror: bool) -> Tensor:
    """Levels (N, C, H, W) at places (N, H, W) in pixels, linear between them; beyond cb|abc|ba
    (`mirror`) or ba|abc|cb.

    >>> row = torch.tensor([0.0, 10.0, 20.0]).view(1, 1, 1, 3)
    >>> sample_levels(
    ...     row, torch.zeros(1, 1, 3), torch.tensor([[[0.5, 1.0, 3.0]]]), mirror=True
    ... ).flatten().tolist()
    [5.0, 10.0, 10.0]
    """
    height, width = levels.shape[-2:]
    if mirror:
        grid = (across * (2.0 / max(width - 1, 1)) - 1.0, down * (2.0 / max(height - 1, 1)) - 1.0)
    else:
        grid = ((across * 2.0 + 1.0) / width - 1.0, (down * 2.0 + 1.0) / height - 1.0)
    return F.grid_sample(
        levels,
        torch.stack(grid, -1),
        mode="bilinear",
        padding_mode="reflection",
        align_corners=mirror,
    )


def stretch_places(levels: Tensor, jitter: float, draws: Draws) -> Tensor:
    """The affine map that moves three corners of a square by U(-jitter, jitter) pixels each way.

    The square lies in the middle, its half side a third of the shorter side in whole pixels; where
    that is 0, nothing moves.
    """
    height, width = levels.shape[-2:]
    third = min(height, width) // 3
    if third == 0:
        return levels
    corners = np.array([width // 2, height // 2]) + third * np.array(
        [[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]]
    )
    moved = corners + jitter * draws.signed(3, 2).cpu().numpy().astype(np.float64)
    (ax, ay), (bx, by) = (np.moveaxis(moved[:, i] - moved[:, 0], -1, 0) for i in (1, 2))
    turned = np.stack([by, -bx, -ay, ax], -1).reshape(-1, 2, 2)
    area = (ax * by - ay * bx)[:, None, None]
    back = np.stack([corners[1] - corners[0], corners[2] - corners[0]], -1) @ (
        turned / np.where(area, area, np.inf)
    )
    shift = corners[0] - np.einsum("nij,nj->ni", back, moved[:, 0])
    (xx, xy, yx, yy), (x0, y0) = (
        torch.from_numpy(part).to(levels.device, torch.float32).T[..., None, None]
        for part in (back.reshape(-1, 4), shift)
    )
    x = torch.arange(width, dtype=torch.float32, device=levels.device)
    y = torch.arange(height, dtype=torch.float32, device=levels.device)[:, None]
    return sample_levels(levels, yx * x + yy * y + y0, xx * x + xy * y + x0, mirror=True)


def displace_places(levels: Tensor, alpha: float, sigma: float, draws: Draws) -> Tensor:
    """Every pixel taken from alpha G_sigma * U(-1, 1) pixels away, each way, the Gaussian cut at 3
    sigma.
    """
    height, width = levels.shape[-2:]
    rows, columns = (build_smoothing(length, sigma, 3.0, "reflect") for length in (height, width))
    y, x = (
        apply_separable(draws.signed(height, width, stream=stream), rows, columns)
        .mul_(alpha)
        .to(torch.float32)
        for stream in (1, 2)
    )
    x += torch.arange(width, device=levels.device)
    y += torch.arange(height, device=levels.device)[:, None]
    return sample_levels(levels, y, x, mirror=False)


@corruptions.register("elastic_transform")
@dataclass(frozen=True)
class ElasticTransform:
    """x(A p + alpha G_sigma * U(-1, 1)), A an affine map near the identity, both with linear
    interpolation.

    Constants: alpha, sigma and the affine jitter as parts of the shorter side, which is 32 in
    CIFAR-10-C; ImageNet-C takes 244 for its 224 pixels.

    >>> grey = torch.full((1, 3, 9, 9), 77, dtype=torch.uint8)
    >>> ElasticTransform().apply(
    ...     grey, (0.1, 0.04, 0.05), Draws.keyed(0, indices=torch.arange(1))
    ... ).unique().tolist()
    [77]
    """

    cifar: ClassVar[Table] = (
        (0, 0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    )
    imagenet: ClassVar[Table] = (
        (2 * LARGE, 0.7 * LARGE, 0.1 * LARGE),
        (2 * LARGE, 0.08 * LARGE, 0.2 * LARGE),
        (0.05 * LARGE, 0.01 * LARGE, 0.02 * LARGE),
        (0.07 * LARGE, 0.01 * LARGE, 0.02 * LARGE),
        (0.12 * LARGE, 0.01 * LARGE, 0.02 * LARGE),
    )

    def apply(self, images: Tensor, strength: Strength, draws: Draws) -> Tensor:
        """Each image stretched in its own way."""
        alpha, sigma, jitter = (part * min(images.shape[-2:]) for part in strength)
        levels = stretch_places(images.to(torch.float32), jitter, draws)
        return round_to_grey_levels(
            displace_places(levels, alpha, sigma, draws) if alpha else levels
        )
