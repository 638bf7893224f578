"""Random changes of training images: cropped and mirrored, and their masks alike."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor

from pruning.data.arrays import IGNORED
from pruning.data.photo_images import PhotoImages
from pruning.data.photos import Photos
from pruning.data.tensors import Split
from pruning.schemas.preprocessing import Resizing

PADDING = 4
RANDOM_RESIZED_CROP = "random_resized_crop"
"""A random part of each image, resized to the size that the network takes, and mirrored or not."""
SCALED_CROP = "scaled_crop"
"""Images and their masks scaled at random, and a random square of them, mirrored or not."""


def augment(images: Tensor, mode: str, rng: Generator) -> Tensor:
    """Crop each image at random after `PADDING` pixels of black on each side, and flip it or not.

    uint8 (N, C, H, W) in and out; `mode` is `none`, `crop` or `crop_flip`. The result is laid out
    channels last.
    """
    if mode == "none":
        return images
    rows, columns = _draw_places(images, mode, rng)
    return _move_images(images, rows, columns, padding=0)


def augment_batch(
    images: Tensor, labels: Tensor, mode: str, rng: Generator
) -> tuple[Tensor, Tensor]:
    """Augment the images, and their masks in the same way: their padding is ignored.

    Labels that are one class for each image stay as they are.
    """
    if mode == "none" or labels.dim() == 1:
        return augment(images, mode, rng), labels
    rows, columns = _draw_places(images, mode, rng)
    masks = _move_images(labels[:, None], rows, columns, padding=IGNORED)
    return _move_images(images, rows, columns, padding=0), masks[:, 0].contiguous()


def _draw_places(images: Tensor, mode: str, rng: Generator) -> tuple[Tensor, Tensor]:
    """The rows and the columns of the padded images that each image takes, (N, H) and (N, W)."""
    count, _, height, width = images.shape
    offsets = torch.randint(0, 2 * PADDING + 1, (2, count, 1), generator=rng)
    rows = offsets[0] + torch.arange(height)
    columns = offsets[1] + torch.arange(width)
    if mode == "crop_flip":
        flip = torch.rand(count, 1, generator=rng) < 0.5
        columns = torch.where(flip, columns.flip(1), columns)
    return rows, columns


def _move_images(images: Tensor, rows: Tensor, columns: Tensor, padding: int) -> Tensor:
    """The given rows and columns of the images padded by a value, laid out channels last."""
    padded = torch.nn.functional.pad(images, (PADDING,) * 4, value=padding)
    index = torch.arange(len(images), device=images.device)[:, None, None]
    rows = rows.to(images.device)[:, :, None]
    columns = columns.to(images.device)[:, None, :]
    return padded.permute(0, 2, 3, 1)[index, rows, columns].permute(0, 3, 1, 2)


def resolve_augment(mode: str, shape: tuple[int, int, int], *, photos: bool = False) -> str:
    """Replace `auto`: `random_resized_crop` for photos, `crop_flip` for other colour images of at
    least 24 pixels, else `none`.

    A flipped digit is not a digit.
    """
    if mode != "auto":
        return mode
    if photos:
        return RANDOM_RESIZED_CROP
    return "crop_flip" if shape[0] == 3 and min(shape[1:]) >= 24 else "none"


def hold_photos(split: Split) -> PhotoImages:
    """The images of a split as photos to crop at random, resized to the size that they have."""
    stored = split.stored
    if isinstance(stored, PhotoImages) and stored.resizing is not None:
        return stored
    _, height, width = split.shape
    resizing = Resizing(resize=(height, width), interpolation="bilinear")
    if isinstance(stored, PhotoImages):
        return replace(stored, resizing=resizing)
    return PhotoImages(Photos.from_pixels(stored.cpu().numpy()), resizing, stored.device)
