"""Spatter: drops of water or mud on the lens.

Source: Hendrycks and Dietterich, Benchmarking neural network robustness to common corruptions and
perturbations, ICLR 2019, and the released code, whose water is shaded by a relief of the distance
to its edges. Distances are Euclidean here, where the usual chamfer distance is up to 2 % off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruning.data.corruptions import LUMA, Strength, Table, corruptions, round_to_grey_levels
from pruning.data.corruptions._edges import detect_edges, measure_distances
from pruning.data.corruptions._linear import apply_separable, build_smoothing, index_beyond
from pruning.data.keyed_random import Draws

WATER = (175.0, 238.0, 238.0)
MUD = (63.0, 42.0, 20.0)
FARTHEST = 20
"""The distance from the edge of a drop, in pixels, from which on its relief is flat."""
RELIEF = ((-2.0, -1.0, 0.0), (-1.0, 1.0, 1.0), (0.0, 1.0, 2.0))
MEAN = ((1.0, 1.0, 1.0),) * 3
"""Nine times the mean of 3 x 3 pixels."""


def smooth_fields(field: Tensor, sigma: float) -> Tensor:
    """Smooth fields (N, H, W) by a Gaussian of `sigma` pixels cut at 4 sigma: float64."""
    height, width = field.shape[-2:]
    rows = build_smoothing(height, sigma, 4.0, "nearest")
    columns = build_smoothing(width, sigma, 4.0, "nearest")
    return apply_separable(field, rows, columns)


def correlate_fields(field: Tensor, kernel: tuple[tuple[float, ...], ...]) -> Tensor:
    """Fields (N, H, W) correlated with a 3 x 3 kernel, mirrored beyond their edges.

    The sum is always taken in the same order.
    """
    height, width = field.shape[-2:]
    rows = torch.from_numpy(index_beyond(height, 1, 1, "mirror")).to(field.device)
    columns = torch.from_numpy(index_beyond(width, 1, 1, "mirror")).to(field.device)
    wide = field.index_select(1, rows).index_select(2, columns)
    total = torch.zeros_like(field)
    for y, line in enumerate(kernel):
        for x, weight in enumerate(line):
            if weight:
                total += wide[:, y : y + height, x : x + width] * weight
    return total


def equalise_levels(levels: Tensor, most: int) -> Tensor:
    """Spread the whole levels 0 ... most of each image (N, H, W) over 0 ... 255 by rank.

    A single level stays as it is.
    """
    count = len(levels)
    level_count = most + 1
    flat = levels.flatten(1).to(torch.int64)
    # One histogram of each image, by a single count in which the levels of image n begin at
    # n level_count.
    offsets = torch.arange(count, device=levels.device)[:, None] * level_count
    histogram = torch.bincount((flat + offsets).view(-1), minlength=count * level_count)
    histogram = histogram.view(count, level_count)
    lowest = histogram.ne(0).to(torch.int64).argmax(1, keepdim=True)
    at_lowest = histogram.gather(1, lowest)
    above = flat.shape[1] - at_lowest
    ranks = (histogram.cumsum(1) - at_lowest).clamp_(min=0)
    spread = (ranks * (255.0 / above.clamp(min=1))).round_()
    unchanged = torch.arange(level_count, device=levels.device)
    table = torch.where(above > 0, spread, unchanged).to(torch.float32)
    return table.gather(1, flat).view(levels.shape)


def shade_water(liquid: Tensor) -> Tensor:
    """Drops shaded by their relief, the brightest point 1: float32 (N, H, W).

    `liquid` is in [0, 1], 0 where dry.
    """
    levels = (liquid * 255.0).clamp_(0.0, 255.0).floor_().to(torch.float32)
    edges = detect_edges(levels.to(torch.int32), 50, 150)
    distances = correlate_fields(measure_distances(edges, FARTHEST), MEAN).div_(9.0)
    # The small number keeps a whole mean whole where it is rounded below.
    distances = distances.add_(2.0**-10).floor_()
    relief = correlate_fields(equalise_levels(distances, FARTHEST), RELIEF).clamp_(0.0, 255.0)
    drops = correlate_fields(relief, MEAN).div_(9.0).round_().mul_(levels)
    return drops.div_(drops.amax((1, 2), keepdim=True).clamp_(min=1.0))


@corruptions.register("spatter")
@dataclass(frozen=True)
class Spatter:
    """Water, x + m (175, 238, 238) / 255, or mud, x (1 - m) + m (63, 42, 20) / 255, m drops.

    Drops are where N(loc, scale), smoothed by sigma pixels, is above the threshold. Water: m is
    shaded and at most `intensity`; mud: the drops smoothed by `intensity` pixels, 0 below 0.8.
    Constants: loc, scale, sigma, threshold, intensity, mud. Grey images get the luma of the colour.

    >>> grey = torch.full((1, 3, 32, 32), 77, dtype=torch.uint8)
    >>> mud = Spatter().apply(
    ...     grey, (0.65, 0.1, 0.5, 0.68, 0.6, 1), Draws.from_key(0, indices=torch.arange(1))
    ... )
    >>> mud.amin((0, 2, 3)).tolist(), mud.max().item()
    ([63, 42, 20], 77)
    """

    cifar: ClassVar[Table] = (
        (0.62, 0.1, 0.7, 0.7, 0.5, 0),
        (0.65, 0.1, 0.8, 0.7, 0.5, 0),
        (0.65, 0.3, 1, 0.69, 0.5, 0),
        (0.65, 0.1, 0.7, 0.69, 0.6, 1),
        (0.65, 0.1, 0.5, 0.68, 0.6, 1),
    )
    imagenet: ClassVar[Table] = (
        (0.65, 0.3, 4, 0.69, 0.6, 0),
        (0.65, 0.3, 3, 0.68, 0.6, 0),
        (0.65, 0.3, 2, 0.68, 0.5, 0),
        (0.65, 0.3, 1, 0.65, 1.5, 1),
        (0.67, 0.4, 1, 0.65, 1.5, 1),
    )

    def apply(self, images: Tensor, strength: Strength, draws: Draws) -> Tensor:
        """Spatter each image with drops of its own."""
        loc, scale, sigma, threshold, intensity, muddy = strength
        liquid = smooth_fields(draws.normal(*images.shape[-2:]), sigma).mul_(scale).add_(loc)
        levels = images.to(torch.float32)
        colour = torch.tensor(MUD if muddy else WATER, device=images.device)
        if images.shape[1] == 1:
            colour = (colour * torch.tensor(LUMA, device=images.device)).sum(0, keepdim=True)
        colour = colour[:, None, None]
        if muddy:
            wet = (liquid > threshold).to(torch.float32)
            drops = smooth_fields(wet, intensity).to(torch.float32)
            drops = drops.mul_(drops >= 0.8)[:, None]
            return round_to_grey_levels(levels.mul_(1.0 - drops).add_(drops * colour))
        drops = shade_water(liquid.mul_(liquid >= threshold)).mul_(intensity)[:, None]
        return round_to_grey_levels(levels.add_(drops * colour))
