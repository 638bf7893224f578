"""One-sided motion blur, each image along its own direction."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pruning.data.corruptions._linear import round_weights
from pruning.data.keyed_random import Draws


def draw_angles(low: float, high: float, draws: Draws, stream: int = 0) -> NDArray[np.float64]:
    """A uniform angle for each image in degrees, (N,)."""
    steps = draws.integers(1 << 24, stream=stream).cpu().numpy()
    return low + (high - low) * steps.astype(np.float64) / (1 << 24)


@cache
def build_trail(radius: int, sigma: float) -> NDArray[np.float64]:
    """The weights of a one-sided Gaussian trail, k_i for i = 0 ... 2 radius pixels behind a point.

    They are proportional to exp(-i^2 / (2 sigma^2)), sum to 1 and are multiples of 2^-16, so that
    sums of grey levels are exact.

    >>> build_trail(1, 1.0).round(3).tolist()
    [0.574, 0.348, 0.078]
    """
    weights = np.exp(-0.5 * (np.arange(2 * radius + 1) / sigma) ** 2)
    return round_weights(weights / weights.sum(), bits=16)


def apply_streaks(
    images: Tensor, degrees: NDArray[np.float64], radius: int, sigma: float
) -> Tensor:
    """y(p) = sum_i k_i x(p + s_i), s_i = i (cos, sin) rounded to pixels: float32 levels, exact.

    The edges are continued. Images are taken in the order of their angles, so that those with the
    same shift lie side by side.

    >>> point = torch.zeros(1, 1, 1, 4, dtype=torch.uint8)
    >>> point[..., 3] = 100
    >>> apply_streaks(point, np.array([0.0]), 1, 1.0).round().flatten().tolist()
    [0.0, 8.0, 43.0, 100.0]
    """
    height, width = images.shape[-2:]
    order = np.argsort(degrees, kind="stable")
    down, across = _compute_shifts(degrees[order], radius)
    top = -min(int(down.min()), 0)
    bottom = max(int(down.max()), 0)
    left = -min(int(across.min()), 0)
    right = max(int(across.max()), 0)
    places = torch.from_numpy(order).to(images.device)
    levels = images.index_select(0, places).to(torch.float32)
    wide = F.pad(levels, [left, right, top, bottom], mode="replicate")

    blurred = torch.zeros(images.shape, dtype=torch.float32, device=images.device)
    for weight, dy, dx in zip(build_trail(radius, sigma), down, across, strict=True):
        # Runs of images with one shift are added together.
        cuts = np.nonzero((np.diff(dy) != 0) | (np.diff(dx) != 0))[0] + 1
        for begin, end in zip([0, *cuts], [*cuts, len(order)], strict=True):
            y = int(dy[begin]) + top
            x = int(dx[begin]) + left
            shifted = wide[begin:end, :, y : y + height, x : x + width]
            blurred[begin:end].add_(shifted, alpha=float(weight))
    return torch.empty_like(blurred).index_copy_(0, places, blurred)


def _compute_shifts(
    degrees: NDArray[np.float64], radius: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The steps down and across of every point of the trails, in pixels: (2 radius + 1, N) each."""
    direction = np.deg2rad(degrees)
    steps = np.arange(2 * radius + 1)[:, None]
    down = np.ceil(steps * np.sin(direction) - 0.5).astype(np.int64)
    across = np.ceil(steps * np.cos(direction) - 0.5).astype(np.int64)
    return down, across
