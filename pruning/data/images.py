"""Single images of an archive, decoded with care: bad ones raise a `DataError`. Free of torch."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from pruning.data.frames import check_frames, read_orientation, turn_upright
from pruning.errors import DataError

MAX_ENTRY_BYTES = 64 * 2**20
MAX_IMAGE_PIXELS = 50_000_000
JPEG_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif"}
SUFFIXES = JPEG_SUFFIXES | {".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF")
"""The formats that are decoded, whatever the suffix of a file.

Other decoders start programs (EPS) or are little tested.
"""
GREY = ("L", "1", "LA")
"""The modes of Pillow that are read as one channel."""

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@contextmanager
def open_image(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, formats: tuple[str, ...] = FORMATS
) -> Iterator[Image.Image]:
    """Open the image of an entry, its header within the limits.

    Whatever goes wrong, while decoding too, raises a `DataError`.
    """
    if entry.file_size > MAX_ENTRY_BYTES:
        raise DataError(
            f"{entry.filename}: {entry.file_size} bytes; at most {MAX_ENTRY_BYTES} are accepted"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of broken EXIF blocks, for instance
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(archive.read(entry)), formats=formats) as image:
                if image.width * image.height > MAX_IMAGE_PIXELS:
                    raise DataError(
                        f"{entry.filename}: {image.width}x{image.height} pixels; at most "
                        f"{MAX_IMAGE_PIXELS} are accepted"
                    )
                check_frames(image, entry.filename)
                if image.mode.startswith(("I", "F")):  # converting would clip at 255
                    raise DataError(
                        f"{entry.filename}: {image.mode} pixels; images need 8 bits a channel"
                    )
                yield image
    except DataError:
        raise
    except Exception as error:  # decoders fail in many ways on broken bytes: zlib.error, KeyError
        problem = str(error)[:200]
        if isinstance(error, UnidentifiedImageError):
            problem = "its first bytes are those of no format that is read"
        raise DataError(f"{entry.filename}: not a readable image ({problem})") from None


def decode_image(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Pixels:
    """The image of an entry, turned upright, uint8 (C, H, W): one channel where it is grey, else
    three.
    """
    with open_image(archive, entry) as image:
        upright = turn_upright(image, read_orientation(image))
        pixels = np.asarray(upright.convert("L" if image.mode in GREY else "RGB"))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def widen_to_channels(images: Pixels, channels: int, axis: int = 1) -> Pixels:
    """Grey images, (N, 1, H, W) or along another axis, repeated to a number of channels."""
    return images if images.shape[axis] == channels else np.repeat(images, channels, axis=axis)
