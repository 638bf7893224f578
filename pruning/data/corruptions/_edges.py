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
    height, width = levels.shape[-2:]
    wide = F.pad(levels[:, None].to(torch.float32), [1, 1, 1, 1], mode="replicate")[:, 0].to(
        torch.int32
    )
    sums = wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]
    gx = sums[:, :, 2:] - sums[:, :, :-2]
    sums = wide[:, :, :-2] + 2 * wide[:, :, 1:-1] + wide[:, :, 2:]
    gy = sums[:, 2:] - sums[:, :-2]
    size = gx.abs() + gy.abs()
    around = F.pad(size, [1, 1, 1, 1])

    def beside(down: int, across: int) -> Tensor:
        return around[:, 1 + down : 1 + down + height, 1 + across : 1 + across + width]

    flat, steep = gx.abs() * TAN_22, gy.abs() << 15
    across = (size > beside(0, -1)) & (size >= beside(0, 1))
    down = (size > beside(-1, 0)) & (size >= beside(1, 0))
    falling = (size > beside(-1, -1)) & (size > beside(1, 1))
    rising = (size > beside(-1, 1)) & (size > beside(1, -1))
    slanted = torch.where((gx ^ gy) < 0, rising, falling)
    largest = torch.where(
        steep < flat, across, torch.where(steep > flat + (gx.abs() << 16), down, slanted)
    )
    weak = largest & (size > low)
    found = weak & (size > high)
    while True:
        grown = found.clone()
        grown[:, 1:] |= found[:, :-1]
        grown[:, :-1] |= found[:, 1:]
        tall = grown.clone()
        grown[:, :, 1:] |= tall[:, :, :-1]
        grown[:, :, :-1] |= tall[:, :, 1:]
        grown &= weak
        if torch.equal(grown, found):
            return found
        found = grown


def measure_distances(marks: Tensor, farthest: int) -> Tensor:
    """The Euclidean distance of each place of (N, H, W) from the nearest mark, in pixels, at most
    `farthest`: float32.

    First along rows, then d^2 = min over k of k^2 + (row distance k rows away)^2.

    >>> measure_distances(torch.tensor([[[True, False, False], [False, False, False]]]), 2)
    tensor([[[0.0000, 1.0000, 2.0000],
             [1.0000, 1.4142, 2.0000]]])
    """
    height, width = marks.shape[-2:]
    place = torch.arange(width, device=marks.device)
    before = torch.where(marks, place, -farthest).cummax(2).values
    behind = torch.where(marks, place, width + farthest).flip(2).cummin(2).values.flip(2)
    along = (
        torch.minimum(place - before, behind - place)
        .clamp_(max=farthest)
        .to(torch.float32)
        .square_()
    )
    found = along.clone()
    for k in range(1, min(farthest, height)):
        if k * k >= found.max():
            break
        found[:, k:] = torch.minimum(found[:, k:], along[:, :-k] + k * k)
        found[:, :-k] = torch.minimum(found[:, :-k], along[:, k:] + k * k)
    return found.sqrt_().clamp_(max=farthest)
