"""Glass blur: the picture behind frosted glass, pixels swapped with their neighbours.

Source: Hendrycks and Dietterich, Benchmarking neural network robustness to common corruptions and
perturbations, ICLR 2019.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruning.data.corruptions import Strength, Table, corruptions
from pruning.data.corruptions.gaussian_blur import blur_images
from pruning.data.keyed_random import Draws


def find_fronts(height: int, width: int, shift: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The pixels in the order of their swaps, rows and columns, together where the order between
    them does not matter.

    One by one they go from the last row and column to the first, those with all neighbours inside:
    H - shift ... shift + 1. A swap at (y, x) touches rows y - shift ... y + shift - 1 and such
    columns, so pixel (y, x) may go as soon as row y + 1 is 2 shift columns ahead: with the time t =
    -x - 2 shift y, what overlaps keeps its order and what is simultaneous does not overlap.

    >>> [list(zip(rows.tolist(), columns.tolist())) for rows, columns in find_fronts(4, 5, 1)]
    [[(3, 4)], [(3, 3)], [(3, 2), (2, 4)], [(2, 3)], [(2, 2)]]
    """
    rows = torch.tensor(range(height - shift, shift, -1), dtype=torch.int64)
    for time in range(max(width - 2 * shift, 0) + 2 * shift * max(len(rows) - 1, 0)):
        columns = width - shift - time + 2 * shift * torch.arange(len(rows))
        inside = (columns > shift) & (columns <= width - shift)
        if inside.any():
            yield rows[inside], columns[inside]


def shuffle_pixels(images: Tensor, shift: int, times: int, draws: Draws) -> Tensor:
    """Every pixel swapped with one at a uniform offset in [-shift, shift) down and across, pixel by
    pixel, `times` times.
    """
    number, channels, height, width = images.shape
    device = images.device
    source = torch.arange(height * width, device=device).repeat_interleave(
        number
    )  # place by place, its images together
    image = torch.arange(number, device=device)
    for time in range(times):
        words = draws.words(height * width, stream=time).T
        down, across = (
            ((half & 0xFFFF) * (2 * shift) >> 16) - shift for half in (words >> 16, words)
        )
        other = (
            torch.arange(height * width, device=device)[:, None] + down * width + across
        ) * number + image
        for rows, columns in find_fronts(height, width, shift):
            place = (rows * width + columns).to(device)
            here, there = (
                (place[:, None] * number + image).view(-1),
                other.index_select(0, place).view(-1),
            )
            kept, moved = source.index_select(0, here), source.index_select(0, there)
            source.index_copy_(0, there, kept).index_copy_(0, here, moved)
    order = source.view(height * width, number).T[:, None].expand(number, channels, -1)
    return images.reshape(number, channels, -1).gather(2, order).view(images.shape)


@corruptions.register("glass_blur")
@dataclass(frozen=True)
class GlassBlur:
    """G_sigma * shuffled(G_sigma * x): blur, swap every pixel with a near one, blur; sigma and
    shift in pixels.

    Pixels are truly swapped, as the definition says. The usual packages assign NumPy views, which
    overwrites the first pixel and leaves the second: a milder corruption, so that numbers for glass
    blur are not theirs.

    >>> grey = torch.full((1, 3, 5, 5), 77, dtype=torch.uint8)
    >>> GlassBlur().apply(
    ...     grey, (0.4, 1, 2), Draws.keyed(0, indices=torch.arange(1))
    ... ).unique().tolist()
    [77]
    """

    cifar: ClassVar[Table] = (0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)
    imagenet: ClassVar[Table] = (0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)

    def apply(self, images: Tensor, strength: Strength, draws: Draws) -> Tensor:
        """All images at once, front by front."""
        sigma, shift, times = strength
        return blur_images(
            shuffle_pixels(blur_images(images, sigma), int(shift), int(times), draws), sigma
        )
