"""Photos as images of one size, decoded, resized and cropped when they are needed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from pruning.data.keyed_random import Draws
from pruning.data.photos import Box, Photos, crop_image, decode_all, preprocess_image
from pruning.schemas.preprocessing import Resizing

AREA = (0.08, 1.0)
"""The share of a photo's area that a random crop takes, at least and at most."""
RATIO = (3 / 4, 4 / 3)
"""The width of a random crop over its height, at least and at most."""
ATTEMPTS = 10
"""The crops that are drawn until one fits into the photo."""
CPU = torch.device("cpu")
MOST_WORKERS = 16
SHAPES, PLACES, MIRRORS = range(3)
"""The streams of random numbers of a crop."""


@dataclass(frozen=True)
class PhotoImages:
    """N photos that are seen as images (N, C, H, W) of one size.

    They are decoded when they are needed, and not kept.
    """

    photos: Photos
    resizing: Resizing | None
    """None for images of one size that are used as they are."""
    device: torch.device = CPU
    """The device of the tensors that `decode` and `crop_at_random` give."""

    def __len__(self) -> int:
        return len(self.photos)

    @property
    def output(self) -> tuple[int, int]:
        """The height and the width of the images."""
        height, width = self.photos.one_size
        if self.resizing is not None and self.resizing.output is not None:
            height, width = self.resizing.output
        assert height is not None, "photos that differ in size need a resizing to one"
        assert width is not None
        return height, width

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, C, H, W)."""
        return len(self), self.photos.channels, *self.output

    def choose(self, index: Tensor) -> PhotoImages:
        """Some of the photos, in the order of the index."""
        return replace(self, photos=self.photos.choose(index.cpu().numpy()))

    def to(self, device: torch.device) -> PhotoImages:
        """The same photos, whose images come on another device."""
        return replace(self, device=device)

    def decode(self, index: Tensor | slice) -> Tensor:
        """Photos resized and cropped in the middle, uint8 (n, C, H, W)."""
        resizing = self.resizing

        def change(image: Image.Image, turn: int) -> Image.Image:
            return image if resizing is None else preprocess_image(image, resizing)

        return self._decode(self._list(index), change)

    def crop_at_random(self, index: Tensor, seed: int, *names: str | int) -> Tensor:
        """A random part of each photo, resized and mirrored or not, uint8 (n, C, H, W).

        The part of a photo depends on the seed, the names and its own place alone.
        """
        wanted = self._list(index)
        draws = Draws.from_key(seed, *names, indices=torch.tensor(wanted))
        boxes = draw_boxes(torch.from_numpy(self.photos.own_sizes[wanted]), draws)
        given = None if self.resizing is None else self.resizing.interpolation
        interpolation = given or "bilinear"

        def change(image: Image.Image, turn: int) -> Image.Image:
            return crop_image(image, boxes[turn], self.output, interpolation)

        return self._decode(wanted, change)

    def _decode(
        self, wanted: list[int], change: Callable[[Image.Image, int], Image.Image]
    ) -> Tensor:
        pixels = decode_all(self.photos, wanted, self.output, change, workers=count_workers())
        return torch.from_numpy(pixels).to(self.device)

    def _list(self, index: Tensor | slice) -> list[int]:
        if isinstance(index, slice):
            return list(range(*index.indices(len(self))))
        return [int(number) for number in index.tolist()]


def count_workers() -> int:
    """The number of threads that decode photos: those that torch has, up to `MOST_WORKERS`."""
    return min(MOST_WORKERS, torch.get_num_threads())


def draw_boxes(sizes: Tensor, draws: Draws) -> list[Box]:
    """The part of each photo that a training sees; `sizes` are height and width, int64 (n, 2).

    The share of the area is uniform on [0.08, 1], the logarithm of the ratio of the sides uniform
    on [ln 3/4, ln 4/3], sides are rounded; the first of ten such parts that fits lies anywhere in
    the photo alike. Where none fits, it is the largest part in the middle with the nearest ratio.
    Half of them are mirrored. Source: torchvision.transforms.v2, `RandomResizedCrop` and
    `RandomHorizontalFlip`.
    """
    shapes = _uniform(draws.words(2, ATTEMPTS, stream=SHAPES))
    places = _uniform(draws.words(2, stream=PLACES))
    mirrored = _uniform(draws.words(1, stream=MIRRORS))[:, 0] < 0.5
    height, width = sizes.double().unbind(1)
    areas = (height * width)[:, None] * (AREA[0] + (AREA[1] - AREA[0]) * shapes[:, 0])
    low, high = map(math.log, RATIO)
    ratios = torch.exp(low + (high - low) * shapes[:, 1])
    widths = (areas * ratios).sqrt().round()
    heights = (areas / ratios).sqrt().round()
    fits = (widths > 0) & (widths <= width[:, None])
    fits &= (heights > 0) & (heights <= height[:, None])
    first = fits.to(torch.int64).argmax(1, keepdim=True)
    boxes = []
    for row in range(len(sizes)):
        whole = (int(height[row]), int(width[row]))
        if bool(fits[row].any()):
            at = int(first[row])
            part = (int(heights[row, at]), int(widths[row, at]))
            top = int(float(places[row, 0]) * (whole[0] - part[0] + 1))
            left = int(float(places[row, 1]) * (whole[1] - part[1] + 1))
        else:
            part = _fit_ratio(*whole)
            top, left = (whole[0] - part[0]) // 2, (whole[1] - part[1]) // 2
        boxes.append(Box(top, left, *part, mirrored=bool(mirrored[row])))
    return boxes


def _fit_ratio(height: int, width: int) -> tuple[int, int]:
    """The height and the width of the largest part of an image whose ratio is within the limits."""
    if width / height < RATIO[0]:
        return round(width / RATIO[0]), width
    if width / height > RATIO[1]:
        return height, round(height * RATIO[1])
    return height, width


def _uniform(words: Tensor) -> Tensor:
    """Words of 32 random bits as numbers of [0, 1), float64."""
    return (words.to(torch.int64) & 0xFFFFFFFF).double() / 2**32
