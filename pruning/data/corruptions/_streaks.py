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
    """A uniform angle an image in degrees, (N,)."""
    steps = draws.integers(1 << 24, stream=stream).cpu().numpy()
    return low + (high - low) * steps.astype(np.float64) / (1 << 24)


@cache
def build_trail(radius: int, sigma: float) -> NDArray[np.float64]:
    """k_i ~ exp(-i^2 / (2 sigma^2)), i = 0 ... 2 radius, sum 1, as multiples of 2^-16.

    >>> build_trail(1, 1.0).round(3).tolist()
    [0.574, 0.348, 0.078]
    """
    weights = np.exp(-0.5 * (np.arange(2 * radius + 1) / sigma) ** 2)
    return round_weights(weights / weights.sum(), 16)


def apply_streaks(
    images: Tensor, degrees: NDArray[np.float64], radius: int, sigma: float
) -> Tensor:
    """y(p) = sum_i k_i x(p + s_i), s_i = i (cos, sin) rounded to pixels, the edges continued:
    float32 levels, exact.

    Images are taken in the order of their angles, so that those with the same shift lie side by
    side.

    >>> point = torch.zeros(1, 1, 1, 4, dtype=torch.uint8)
    >>> point[..., 3] = 100
    >>> apply_streaks(point, np.array([0.0]), 1, 1.0).round().flatten().tolist()
    [0.0, 8.0, 43.0, 100.0]
    """
    height, width = images.shape[-2:]
    order = np.argsort(degrees, kind="stable")
    direction = np.deg2rad(degrees[order])
    steps = np.arange(2 * radius + 1)[:, None]
    down, across = (
        np.ceil(steps * part - 0.5).astype(np.int64)
        for part in (np.sin(direction), np.cos(direction))
    )
    top, left = -min(down.min(), 0), -min(across.min(), 0)
    places = torch.from_numpy(order).to(images.device)
    wide = F.pad(
        images.index_select(0, places).to(torch.float32),
        [int(n) for n in (left, max(across.max(), 0), top, max(down.max(), 0))],
        mode="replicate",
    )
    found = torch.zeros(images.shape, dtype=torch.float32, device=images.device)
    for weight, dy, dx in zip(build_trail(radius, sigma), down, across, strict=True):
        cuts = np.nonzero((np.diff(dy) != 0) | (np.diff(dx) != 0))[0] + 1
        for begin, end in zip([0, *cuts], [*cuts, len(order)], strict=True):
            y, x = int(dy[begin] + top), int(dx[begin] + left)
            found[begin:end].add_(
                wide[begin:end, :, y : y + height, x : x + width], alpha=float(weight)
            )
    return torch.empty_like(found).index_copy_(0, places, found)
