"""Images and their masks scaled at random and cropped at random, as segmentation networks are
trained.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pruning.data.arrays import IGNORED
from pruning.data.keyed_random import Draws

SIDES, PLACES, MIRRORS = range(3)
"""The streams of random numbers: of the shorter side, of the place of the crop, of the mirror."""


def scale_and_crop(
    images: Tensor, masks: Tensor, draws: Draws, *, sides: tuple[int, int], crop: int
) -> tuple[Tensor, Tensor]:
    """Scale each image with its mask, mirror half of them, and crop a square of them.

    uint8 (n, C, H, W) and (n, H, W) become (n, C, crop, crop) and (n, crop, crop). The shorter side
    of an image becomes any whole number of pixels in `sides` alike, both limits included: images
    bilinearly with antialiasing, masks by the nearest pixel. What is smaller than the crop is
    padded at the right and the bottom, images with 0 and masks with 255, which is ignored. An
    image ends at the last row and the last column where its mask counts, so that the padding of a
    smaller image is no part of it. Source: the training of DeepLabV3 in Liebenwein et al., Lost in
    Pruning, 2021, which takes sides of 256 to 1024 and crops of 513 pixels.
    """
    least, most = sides
    shorter = least + draws.integers(most - least + 1, 1, stream=SIDES)[:, 0]
    mirrored = draws.integers(2, 1, stream=MIRRORS)[:, 0] == 1
    places = draws.integers(2**31, 2, stream=PLACES)
    cropped = [
        _change_pair(
            image,
            mask,
            int(shorter[number]),
            mirrored=bool(mirrored[number]),
            place=places[number],
            crop=crop,
        )
        for number, (image, mask) in enumerate(zip(images, masks, strict=True))
    ]
    return torch.stack([image for image, _ in cropped]), torch.stack([mask for _, mask in cropped])


def _change_pair(
    image: Tensor, mask: Tensor, shorter: int, *, mirrored: bool, place: Tensor, crop: int
) -> tuple[Tensor, Tensor]:
    """Scale, mirror, pad and crop an image (C, H, W) and its mask (H, W)."""
    height, width = _find_extent(mask)
    image, mask = image[:, :height, :width], mask[:height, :width]
    # The longer side is rounded down, as torchvision's Resize does.
    factor = shorter / min(height, width)
    size = (
        shorter if height <= width else int(shorter * height / width),
        shorter if width <= height else int(shorter * width / height),
    )
    if factor != 1:
        scaled = F.interpolate(
            image[None].float(), size=size, mode="bilinear", antialias=True, align_corners=False
        )
        image = scaled[0].round().clamp(0, 255).to(torch.uint8)
        mask = F.interpolate(mask[None, None].float(), size=size, mode="nearest")[0, 0].to(
            torch.uint8
        )
    if mirrored:
        image, mask = image.flip(-1), mask.flip(-1)
    right, below = max(0, crop - size[1]), max(0, crop - size[0])
    image = F.pad(image, (0, right, 0, below))
    mask = F.pad(mask, (0, right, 0, below), value=IGNORED)
    # Uniform on 0 ... height - crop, and likewise across.
    top = int(place[0]) * (image.shape[1] - crop + 1) >> 31
    left = int(place[1]) * (image.shape[2] - crop + 1) >> 31
    inside = slice(top, top + crop), slice(left, left + crop)
    return image[:, inside[0], inside[1]], mask[inside]


def _find_extent(mask: Tensor) -> tuple[int, int]:
    """The rows and columns up to the last that count; all of a mask in which none counts.

    >>> mask = torch.full((4, 5), 255, dtype=torch.uint8)
    >>> mask[:2, :3] = 0
    >>> _find_extent(mask)
    (2, 3)
    """
    counts = mask != IGNORED
    rows, columns = torch.nonzero(counts.any(1)), torch.nonzero(counts.any(0))
    if not len(rows):
        return mask.shape[0], mask.shape[1]
    return int(rows[-1]) + 1, int(columns[-1]) + 1
