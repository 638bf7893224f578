"""Plasma: fractal clouds by midpoint displacement, many at once."""

from __future__ import annotations

import torch
from torch import Tensor

from pruning.data.keyed_random import Draws

WIBBLE = 100.0
"""The w of the first pass: displacements are up to w^2."""


def draw_plasma(side: int, decay: float, draws: Draws, stream: int = 0) -> Tensor:
    """Maps on a torus by diamonds and squares, scaled to [0, 1]: float32 (N, side, side).

    `side` is a power of 2. The map begins with one 0; every pass halves the mesh: centres become
    the mean of their four corners, then the middles of edges that of their four neighbours, each
    with w U(-w, w) added, w = 100, divided by `decay` after each pass.

    >>> map = draw_plasma(4, 2.0, Draws.from_key(0, indices=torch.arange(1)))
    >>> map.shape, map.min().item(), map.max().item()
    (torch.Size([1, 4, 4]), 0.0, 1.0)
    """
    noise = draws.signed(side, side, stream=stream)
    maps = torch.zeros_like(noise)
    step = side
    wibble = WIBBLE
    while step >= 2:
        half = step // 2
        size = wibble * wibble
        corners = maps[:, ::step, ::step].clone()
        corner_pairs = corners + corners.roll(-1, 1)  # with the corner below

        corner_sums = corner_pairs + corner_pairs.roll(-1, 2)
        displacement = noise[:, half::step, half::step] * size
        centres = corner_sums.mul_(0.25).add_(displacement)
        maps[:, half::step, half::step] = centres

        # A middle of a horizontal edge lies between two corners, and two centres above and below.
        edge_sums = corners + corners.roll(-1, 2) + centres + centres.roll(1, 1)
        displacement = noise[:, ::step, half::step] * size
        maps[:, ::step, half::step] = edge_sums.mul_(0.25).add_(displacement)

        edge_sums = corner_pairs + centres + centres.roll(1, 2)
        displacement = noise[:, half::step, ::step] * size
        maps[:, half::step, ::step] = edge_sums.mul_(0.25).add_(displacement)

        step = half
        wibble = wibble / decay
    maps -= maps.amin((1, 2), keepdim=True)
    return maps.div_(maps.amax((1, 2), keepdim=True))
