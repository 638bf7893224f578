"""Elastic transform: the image stretched by an affine map and by a smooth random displacement.

Source: Hendrycks and Dietterich, Benchmarking neural network robustness to common corruptions and
perturbations, ICLR 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pruning.data.corruptions import Strength, Table, corruptions, round_to_grey_levels
from pruning.data.corruptions._linear import apply_separable, build_smoothing
from pruning.data.keyed_random import Draws

LARGE = 244 / 224
"""The published constants of ImageNet-C count parts of 244 pixels, in images of 224."""


def sample_levels(levels: Tensor, down: Tensor, across: Tensor, *, mirror: bool) -> Tensor:
    """Levels (N, C, H, W) at places (N, H, W) in pixels, linear between them.

    They continue beyond the edges as cb|abc|ba (`mirror`) or as ba|abc|cb.

    >>> row = torch.tensor([0.0, 10.0, 20.0]).view(1, 1, 1, 3)
    >>> sample_levels(
    ...     row, torch.zeros(1, 1, 3), torch.tensor([[[0.5, 1.0, 3.0]]]), mirror=True
    ... ).flatten().tolist()
    [5.0, 10.0, 10.0]
    """
    # grid_sample wants places in [-1, 1], which are the middles of the pixels at the border
    # where corners are aligned (mirror), and their outer edges otherwise.
    height, width = levels.shape[-2:]
    if mirror:
        x = across * (2.0 / max(width - 1, 1)) - 1.0
        y = down * (2.0 / max(height - 1, 1)) - 1.0
    else:
        x = (across * 2.0 + 1.0) / width - 1.0
        y = (down * 2.0 + 1.0) / height - 1.0
    return F.grid_sample(
        levels,
        torch.stack((x, y), -1),
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
    middle = np.array([width // 2, height // 2])
    corners = middle + third * np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    moved = corners + jitter * draws.signed(3, 2).cpu().numpy().astype(np.float64)
    back, shift = _solve_affine(corners, moved)

    def to_maps(numbers: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(numbers).to(levels.device, torch.float32).T[..., None, None]

    xx, xy, yx, yy = to_maps(back.reshape(-1, 4))
    x0, y0 = to_maps(shift)
    x = torch.arange(width, dtype=torch.float32, device=levels.device)
    y = torch.arange(height, dtype=torch.float32, device=levels.device)[:, None]
    down = yx * x + yy * y + y0
    across = xx * x + xy * y + x0
    return sample_levels(levels, down, across, mirror=True)


def _solve_affine(
    corners: NDArray[np.float64], moved: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The maps p = A q + s that take the moved corners q back to the corners p, (x, y) each.

    `corners` is (3, 2) and `moved` (N, 3, 2); the result is A (N, 2, 2) and s (N, 2). Where the
    moved corners lie on a line, A is 0.
    """
    # With the sides a, b of the moved triangle and those of the fixed one as columns,
    # A = fixed moved^-1, and the inverse of [[ax, bx], [ay, by]] is [[by, -bx], [-ay, ax]] / area.
    ax, ay = np.moveaxis(moved[:, 1] - moved[:, 0], -1, 0)
    bx, by = np.moveaxis(moved[:, 2] - moved[:, 0], -1, 0)
    adjugate = np.stack([by, -bx, -ay, ax], -1).reshape(-1, 2, 2)
    area = (ax * by - ay * bx)[:, None, None]
    inverse = adjugate / np.where(area, area, np.inf)
    fixed = np.stack([corners[1] - corners[0], corners[2] - corners[0]], -1)
    back = fixed @ inverse
    shift = corners[0] - np.einsum("nij,nj->ni", back, moved[:, 0])
    return back, shift


def displace_places(levels: Tensor, alpha: float, sigma: float, draws: Draws) -> Tensor:
    """Every pixel taken from alpha G_sigma * U(-1, 1) pixels away, down and across.

    The Gaussian is cut at 3 sigma.
    """
    height, width = levels.shape[-2:]
    rows = build_smoothing(height, sigma, 3.0, "reflect")
    columns = build_smoothing(width, sigma, 3.0, "reflect")

    def draw_displacement(stream: int) -> Tensor:
        field = draws.signed(height, width, stream=stream)
        return apply_separable(field, rows, columns).mul_(alpha).to(torch.float32)

    down = draw_displacement(stream=1)
    across = draw_displacement(stream=2)
    down += torch.arange(height, device=levels.device)[:, None]
    across += torch.arange(width, device=levels.device)
    return sample_levels(levels, down, across, mirror=False)


@corruptions.register("elastic_transform")
@dataclass(frozen=True)
class ElasticTransform:
    """x(A p + alpha G_sigma * U(-1, 1)), A an affine map near the identity.

    Both steps interpolate linearly. Constants: alpha, sigma and the affine jitter as parts of the
    shorter side, which is 32 in CIFAR-10-C; ImageNet-C takes 244 for its 224 pixels.

    >>> grey = torch.full((1, 3, 9, 9), 77, dtype=torch.uint8)
    >>> ElasticTransform().apply(
    ...     grey, (0.1, 0.04, 0.05), Draws.from_key(0, indices=torch.arange(1))
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
        """Stretch each image in its own way."""
        alpha, sigma, jitter = (part * min(images.shape[-2:]) for part in strength)
        levels = stretch_places(images.to(torch.float32), jitter, draws)
        if alpha:
            levels = displace_places(levels, alpha, sigma, draws)
        return round_to_grey_levels(levels)
