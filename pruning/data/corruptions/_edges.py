"""Canny's edges and the distance to them, for a batch of grey maps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

TAN_22 = 13573
"""tan(22.5 degrees) 2^15."""


def detect_edges(levels: Tensor, low: int, high: int) -> Tensor:
    """Canny's edges of maps (N, H, W) of whole levels, int32: bool.

    Gradients by Sobel with the edges continued, their size |gx| + |gy|; local maxima along the
    gradient above `low` that touch one another all the way to one above `high`.

    >>> step = torch.tensor([[0, 0, 200, 200]] * 2, dtype=torch.int32)[None]
    >>> detect_edges(step, 50, 150).int().tolist()
    [[[0, 1, 0, 0], [0, 1, 0, 0]]]
    """
    gx, gy = _compute_gradients(levels)
    size = gx.abs() + gy.abs()
    weak = _find_ridges(gx, gy, size) & (size > low)
    return _grow_within(weak & (size > high), weak)


def _compute_gradients(levels: Tensor) -> tuple[Tensor, Tensor]:
    """Sobel's gradients across and down, int32 (N, H, W) each, the edges continued."""
    maps = levels[:, None].to(torch.float32)  # padding by replication knows no int32
    wide = F.pad(maps, [1, 1, 1, 1], mode="replicate")[:, 0].to(torch.int32)
    above = wide[:, :-2]
    below = wide[:, 2:]
    smooth_down = above + 2 * wide[:, 1:-1] + below
    gx = smooth_down[:, :, 2:] - smooth_down[:, :, :-2]

    left = wide[:, :, :-2]
    right = wide[:, :, 2:]
    smooth_across = left + 2 * wide[:, :, 1:-1] + right
    gy = smooth_across[:, 2:] - smooth_across[:, :-2]
    return gx, gy


def _find_ridges(gx: Tensor, gy: Tensor, size: Tensor) -> Tensor:
    """The places where the gradient is largest along its own direction, one of four: bool."""
    height, width = size.shape[-2:]
    padded = F.pad(size, [1, 1, 1, 1])

    def shift(down: int, across: int) -> Tensor:
        rows = slice(1 + down, 1 + down + height)
        columns = slice(1 + across, 1 + across + width)
        return padded[:, rows, columns]

    largest_across = (size > shift(0, -1)) & (size >= shift(0, 1))
    largest_down = (size > shift(-1, 0)) & (size >= shift(1, 0))
    largest_falling = (size > shift(-1, -1)) & (size > shift(1, 1))
    largest_rising = (size > shift(-1, 1)) & (size > shift(1, -1))
    # Gradients of opposite signs point up the rising diagonal.
    largest_slanted = torch.where((gx ^ gy) < 0, largest_rising, largest_falling)

    # |gy| / |gx| against tan(22.5) and tan(67.5) = tan(22.5) + 2, all times 2^15.
    scaled_gy = gy.abs() << 15
    threshold = gx.abs() * TAN_22
    is_steep = scaled_gy > threshold + (gx.abs() << 16)
    unless_flat = torch.where(is_steep, largest_down, largest_slanted)
    return torch.where(scaled_gy < threshold, largest_across, unless_flat)


def _grow_within(marks: Tensor, allowed: Tensor) -> Tensor:
    """The marks with all allowed places that touch them, directly or through one another."""
    while True:
        # Spreading down, then across what was spread, reaches all eight neighbours.
        grown = marks.clone()
        grown[:, 1:] |= marks[:, :-1]
        grown[:, :-1] |= marks[:, 1:]
        tall = grown.clone()
        grown[:, :, 1:] |= tall[:, :, :-1]
        grown[:, :, :-1] |= tall[:, :, 1:]
        grown &= allowed
        if torch.equal(grown, marks):
            return marks
        marks = grown


def measure_distances(marks: Tensor, farthest: int) -> Tensor:
    """The Euclidean distance of each place of (N, H, W) from the nearest mark: float32.

    It is in pixels, at most `farthest`. First along rows, then
    d^2 = min over k of k^2 + (row distance k rows away)^2.

    >>> measure_distances(torch.tensor([[[True, False, False], [False, False, False]]]), 2)
    tensor([[[0.0000, 1.0000, 2.0000],
             [1.0000, 1.4142, 2.0000]]])
    """
    height, width = marks.shape[-2:]
    column = torch.arange(width, device=marks.device)
    last_before = torch.where(marks, column, -farthest).cummax(2).values
    next_behind = torch.where(marks, column, width + farthest).flip(2).cummin(2).values.flip(2)
    nearest = torch.minimum(column - last_before, next_behind - column)
    along_row = nearest.clamp_(max=farthest).to(torch.float32).square_()
    squares = along_row.clone()
    for k in range(1, min(farthest, height)):
        if k * k >= squares.max():  # rows farther away cannot be nearer to any place
            break
        from_above = along_row[:, :-k] + k * k
        squares[:, k:] = torch.minimum(squares[:, k:], from_above)
        from_below = along_row[:, k:] + k * k
        squares[:, :-k] = torch.minimum(squares[:, :-k], from_below)
    return squares.sqrt_().clamp_(max=farthest)
