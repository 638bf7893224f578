"""Single images of an archive, decoded with care: bad ones raise a `DataError`. Free of torch."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable, Iterator
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
    with open_bytes(read_entry(archive, entry), entry.filename, formats) as image:
        yield image


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The bytes of an entry; `DataError` where they are too many or cannot be read."""
    if entry.file_size > MAX_ENTRY_BYTES:
        raise DataError(
            f"{entry.filename}: {entry.file_size} bytes; at most {MAX_ENTRY_BYTES} are accepted"
        )
    try:
        return archive.read(entry)
    except Exception as error:  # broken archives fail in many ways
        raise _refuse_image(entry.filename, error) from None


@contextmanager
def open_bytes(
    content: bytes, name: str, formats: tuple[str, ...] = FORMATS
) -> Iterator[Image.Image]:
    """Open the image of a file's bytes, its header within the limits; else a `DataError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of broken EXIF blocks, for instance
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=formats) as image:
                if image.width * image.height > MAX_IMAGE_PIXELS:
                    raise DataError(
                        f"{name}: {image.width}x{image.height} pixels; at most "
                        f"{MAX_IMAGE_PIXELS} are accepted"
                    )
                check_frames(image, name)
                if image.mode.startswith(("I", "F")):  # converting would clip at 255
                    raise DataError(f"{name}: {image.mode} pixels; images need 8 bits a channel")
                yield image
    except DataError:
        raise
    except Exception as error:  # decoders fail in many ways on broken bytes: zlib.error, KeyError
        raise _refuse_image(name, error) from None


def _refuse_image(name: str, error: Exception) -> DataError:
    problem = str(error)[:200]
    if isinstance(error, UnidentifiedImageError):
        problem = "its first bytes are those of no format that is read"
    return DataError(f"{name}: not a readable image ({problem})")


def decode_image(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Pixels:
    """The image of an entry, turned upright, uint8 (C, H, W): one channel where it is grey, else
    three.
    """
    with open_image(archive, entry) as image:
        upright = turn_upright(image, read_orientation(image))
        return to_pixels(upright.convert(name_mode(count_channels(image))))


def decode_photo(content: bytes, find_name: Callable[[], str], channels: int) -> Image.Image:
    """The image of a file that was checked when it was uploaded, upright, in grey or in colour.

    Several threads may call it; `DataError`, with the name, where the bytes were damaged since.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            upright = turn_upright(image, read_orientation(image))
            return upright.convert(name_mode(channels))
    except Exception as error:  # decoders fail in many ways on broken bytes
        raise _refuse_image(find_name(), error) from None


def count_channels(image: Image.Image) -> int:
    """The channels that an image is read with: 1 where it is grey, else 3."""
    return 1 if image.mode in GREY else 3


def name_mode(channels: int) -> str:
    """Pillow's mode of images of so many channels."""
    return "L" if channels == 1 else "RGB"


def to_pixels(image: Image.Image) -> Pixels:
    """An image in grey or in colour as uint8 (C, H, W)."""
    values = np.asarray(image)
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)


def widen_to_channels(image: Pixels, channels: int) -> Pixels:
    """A grey image (1, H, W) repeated to a number of channels."""
    return image if len(image) == channels else np.repeat(image, channels, axis=0)
