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
    """The rows and columns of the pixels in the order of their swaps, front by front.

    The order within a front does not matter. One by one, the pixels that have all neighbours inside
    go from the last row and column to the first: H - shift ... shift + 1. A swap at (y, x) touches
    rows y - shift ... y + shift - 1 and columns likewise, so pixel (y, x) may go as soon as row
    y + 1 is 2 shift columns ahead: with the time t = -x - 2 shift y, swaps that overlap keep their
    order, and swaps at one time do not overlap.

    >>> [list(zip(rows.tolist(), columns.tolist())) for rows, columns in find_fronts(4, 5, 1)]
    [[(3, 4)], [(3, 3)], [(3, 2), (2, 4)], [(2, 3)], [(2, 2)]]
    """
    rows = torch.tensor(range(height - shift, shift, -1), dtype=torch.int64)
    columns_inside = max(width - 2 * shift, 0)
    delay = 2 * shift * max(len(rows) - 1, 0)  # of the last row after the first
    for time in range(columns_inside + delay):
        columns = width - shift - time + 2 * shift * torch.arange(len(rows))
        inside = (columns > shift) & (columns <= width - shift)
        if inside.any():
            yield rows[inside], columns[inside]


def shuffle_pixels(
    images: Tensor, shift: int, times: int, draws: Draws, *, overwrite: bool = False
) -> Tensor:
    """Swap every pixel with one at a random offset, pixel by pixel, `times` times.

    Offsets down and across are uniform in [-shift, shift). With `overwrite` the pixel becomes the
    other one, which stays as it is.
    """
    count, channels, height, width = images.shape
    pixels = height * width
    places = torch.arange(pixels, device=images.device)
    image = torch.arange(count, device=images.device)
    # Which pixel stands at each place, (H W N,): place by place, the images of a place together.
    source = places.repeat_interleave(count)
    for time in range(times):
        words = draws.words(pixels, stream=time).T
        down = _scale_to_offset(words >> 16, shift)
        across = _scale_to_offset(words, shift)
        partner = (places[:, None] + down * width + across) * count + image
        for rows, columns in find_fronts(height, width, shift):
            front = (rows * width + columns).to(images.device)
            first = (front[:, None] * count + image).view(-1)
            second = partner.index_select(0, front).view(-1)
            first_source = source.index_select(0, first)
            second_source = source.index_select(0, second)
            # In this order, a pixel whose partner is itself keeps its place.
            if not overwrite:
                source.index_copy_(0, second, first_source)
            source.index_copy_(0, first, second_source)
    order = source.view(pixels, count).T[:, None].expand(count, channels, -1)
    return images.reshape(count, channels, -1).gather(2, order).view(images.shape)


def _scale_to_offset(words: Tensor, shift: int) -> Tensor:
    """Offsets in [-shift, shift) from the low 16 bits of words."""
    return ((words & 0xFFFF) * (2 * shift) >> 16) - shift


@corruptions.register("glass_blur")
@dataclass(frozen=True)
class GlassBlur:
    """G_sigma * shuffled(G_sigma * x): blur, swap every pixel with a near one, blur.

    Constants: sigma and shift in pixels, and how many times all pixels are swapped. Pixels are
    truly swapped, as the definition says. The published archives overwrite the first pixel and
    leave the second, as `glass_blur_archive` does; at 32 pixels that is milder.

    >>> grey = torch.full((1, 3, 5, 5), 77, dtype=torch.uint8)
    >>> GlassBlur().apply(
    ...     grey, (0.4, 1, 2), Draws.from_key(0, indices=torch.arange(1))
    ... ).unique().tolist()
    [77]
    """

    cifar: ClassVar[Table] = (0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)
    imagenet: ClassVar[Table] = (0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)

    def apply(self, images: Tensor, strength: Strength, draws: Draws) -> Tensor:
        """Blur and shuffle all images at once, front by front."""
        return _blur_and_shuffle(images, strength, draws, overwrite=False)


@corruptions.register("glass_blur_archive")
@dataclass(frozen=True)
class GlassBlurArchive(GlassBlur):
    """Glass blur as in the archives CIFAR-10-C and ImageNet-C: pixels are overwritten, not swapped.

    The code that made the archives assigns views of one array, so that each pixel becomes its
    neighbour and the neighbour stays. Not among the corruptions by default: name it in the place of
    `glass_blur` to compare with numbers of the archives.

    >>> grey = torch.full((1, 3, 5, 5), 77, dtype=torch.uint8)
    >>> GlassBlurArchive().apply(
    ...     grey, (0.4, 1, 2), Draws.from_key(0, indices=torch.arange(1))
    ... ).unique().tolist()
    [77]
    """

    asked_only: ClassVar[bool] = True

    def apply(self, images: Tensor, strength: Strength, draws: Draws) -> Tensor:
        """Blur all images and overwrite their pixels, front by front."""
        return _blur_and_shuffle(images, strength, draws, overwrite=True)


def _blur_and_shuffle(
    images: Tensor, strength: Strength, draws: Draws, *, overwrite: bool
) -> Tensor:
    sigma, shift, times = strength
    blurred = blur_images(images, sigma)
    shuffled = shuffle_pixels(blurred, int(shift), int(times), draws, overwrite=overwrite)
    return blur_images(shuffled, sigma)
