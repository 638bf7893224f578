"""A tiny dataset in the format of VOC: JPEGs of differing sizes, masks with borders of 255."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from pruning.data import uploads
from pruning.data.tensors import Data, prepare
from pruning.schemas.recipe import Limit
from pruning.seeding import seeded

Array = np.ndarray[Any, Any]
MOST = 10**8


def png(pixels: Array, palette: bool = False) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if palette:
        image = Image.frombytes("P", image.size, pixels.tobytes())
        colours = [(index, 255 - index, 37 * index % 256) for index in range(256)]
        image.putpalette([value for colour in colours for value in colour])
    image.save(buffer, "PNG")
    return buffer.getvalue()


def jpeg(pixels: Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def scene(seed: int, classes: int, side: int) -> tuple[Array, Array]:
    """An image (H, W, 3) with rectangles in the colours of their classes, and its mask (H, W).

    The borders of the rectangles are 255 in the mask, 1 pixel wide.
    """
    rng = np.random.default_rng(seed)
    rows, columns = rng.integers(side * 3 // 4, side + 1, 2)
    image = np.full((rows, columns, 3), 96) + rng.integers(-12, 13, (rows, columns, 3))
    mask = np.zeros((rows, columns), np.uint8)
    for label in rng.permutation(np.arange(1, classes))[:3]:
        top, left = rng.integers(0, rows // 2), rng.integers(0, columns // 2)
        bottom = top + rng.integers(rows // 4, rows // 2)
        right = left + rng.integers(columns // 4, columns // 2)
        mask[top:bottom, left:right] = 255
        mask[top + 1 : bottom - 1, left + 1 : right - 1] = label
        colour = np.array([90 * label % 256, 200 - 60 * label % 200, 40 + 70 * label % 200])
        noise = rng.integers(-12, 13, (bottom - top, right - left, 3))
        image[top:bottom, left:right] = colour + noise
    return image.clip(0, 255).astype(np.uint8), mask


def pairs(
    layout: str, counts: dict[str, int], classes: int = 4, side: int = 48
) -> dict[str, bytes]:
    """The files by path, `counts` images in each split.

    `layout` is the folder of the images, with `{split}` where that goes. The first image of each
    split holds the last class.
    """
    files = {}
    for number, (split, count) in enumerate(counts.items()):
        folder = layout.format(split=split)
        for index in range(count):
            image, mask = scene(1000 * number + index, classes, side)
            mask[0, 0] = classes - 1 if index == 0 else 0
            mask_folder = folder.replace("images", "masks")
            files[f"{folder}/{index:03d}.jpg"] = jpeg(image)
            files[f"{mask_folder}/{index:03d}.png"] = png(mask, palette=True)
    return files


def upload(files: dict[str, bytes], folder: Path) -> Path:
    """Write the files as a zip in a folder."""
    path = folder / "upload.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


CLASSES = 4


class Tiny(nn.Module):
    """Three convolutions, one answer for every pixel."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(12, 12, 3, padding=1),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, CLASSES, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def tiny(seed: int = 0, dropout: float = 0.0) -> Tiny:
    with seeded(seed):
        return Tiny(dropout)


def scenes(folder: Path) -> Data:
    """Scenes of four classes, as a job reads them from an upload."""
    path = upload(pairs("images/{split}", {"train": 20, "test": 6}, CLASSES, side=24), folder)
    dataset = uploads.read_dataset(path, "upload.zip", MOST)
    return prepare(dataset, limit=Limit(), seed=0, normalize=None)
