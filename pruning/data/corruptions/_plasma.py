"""Plasma: fractal clouds by midpoint displacement, many at once."""

from __future__ import annotations

import torch
from torch import Tensor

from pruning.data.keyed_random import Draws

WIBBLE = 100.0


def draw_plasma(side: int, decay: float, draws: Draws, stream: int = 0) -> Tensor:
    """Maps on a torus by diamonds and squares, scaled to [0, 1]: float32 (N, side, side), side a
    power of 2.

    The map begins with one 0; every pass halves the mesh: centres become the mean of their four
    corners, then the middles of edges that of their four neighbours, each with w U(-w, w) added, w
    = 100, divided by `decay` after each pass.

    >>> map = draw_plasma(4, 2.0, Draws.keyed(0, indices=torch.arange(1)))
    >>> map.shape, map.min().item(), map.max().item()
    (torch.Size([1, 4, 4]), 0.0, 1.0)
    """
    noise = draws.signed(side, side, stream=stream)
    found = torch.zeros_like(noise)
    step, wibble = side, WIBBLE
    while step >= 2:
        half, size = step // 2, wibble * wibble
        corners = found[:, ::step, ::step].clone()
        down = corners + corners.roll(-1, 1)
        centres = (down + down.roll(-1, 2)).mul_(0.25).add_(noise[:, half::step, half::step] * size)
        found[:, half::step, half::step] = centres
        across = corners + corners.roll(-1, 2) + centres + centres.roll(1, 1)
        found[:, ::step, half::step] = across.mul_(0.25).add_(noise[:, ::step, half::step] * size)
        found[:, half::step, ::step] = (
            (down + centres + centres.roll(1, 2))
            .mul_(0.25)
            .add_(noise[:, half::step, ::step] * size)
        )
        step, wibble = half, wibble / decay
    found -= found.amin((1, 2), keepdim=True)
    return found.div_(found.amax((1, 2), keepdim=True))
