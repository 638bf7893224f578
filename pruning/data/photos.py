"""Photos that differ in size, kept as the bytes of their files, and their preprocessing.

Free of torch. Resizing and cropping are those of torchvision on images of Pillow, pixel by pixel.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pruning.data.frames import find_upright_size
from pruning.data.images import (
    Pixels,
    count_channels,
    decode_photo,
    open_bytes,
    open_image,
    read_entry,
    to_pixels,
)
from pruning.data.scratch import Spool
from pruning.data.stored_bytes import Bytes, StoredBytes
from pruning.errors import DataError
from pruning.schemas.preprocessing import Resizing

Whole = np.ndarray[Any, np.dtype[np.int64]]
Checksums = np.ndarray[Any, np.dtype[np.uint32]]
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}
"""Pillow's filters by their names in torchvision."""
SAMPLE = 64


@dataclass(frozen=True, kw_only=True)
class Photos:
    """N photos in order, each the bytes of its file or, where these are `pixels`, (C, H, W).

    The bytes are in memory, or in a file from which each photo is read when it is needed.
    """

    content: Bytes | StoredBytes
    """The bytes of all photos, one after the other."""
    starts: Whole
    """The place of each photo's first byte, and the end of the last, (N + 1,)."""
    sizes: Whole
    """Height and width of each photo, (N, 2)."""
    channels: int
    split: str
    """The name of the split, by which photos without names are called."""
    pixels: bool = False
    """Whether the bytes are values of pixels, and not those of files."""
    checksums: Checksums | None = None
    """The CRC-32 of each photo's bytes as it was stored, (N,)."""
    names: Bytes | StoredBytes | None = None
    """The names of all files in UTF-8, one after the other."""
    name_starts: Whole | None = None
    """The place of each name, and the end of the last, (N + 1,)."""
    chosen: Whole | None = None
    """The photos that are meant, where it is not all of them in order."""

    @classmethod
    def from_pixels(cls, images: Pixels, split: str = "train") -> Photos:
        """The photos of images (N, C, H, W) of one size, whose memory they share."""
        content = np.ascontiguousarray(images).reshape(-1)
        return cls.from_stored_pixels(content, images.shape, split)

    @classmethod
    def from_stored_pixels(
        cls,
        content: Bytes | StoredBytes,
        shape: Sequence[int],
        split: str,
        checksums: Checksums | None = None,
    ) -> Photos:
        """The photos of the bytes of images (N, C, H, W)."""
        count, channels, height, width = shape
        return cls(
            content=content,
            starts=np.arange(count + 1) * (channels * height * width),
            sizes=np.tile(np.array([height, width], np.int64), (count, 1)),
            channels=channels,
            split=split,
            pixels=True,
            checksums=checksums,
        )

    def __len__(self) -> int:
        return len(self.sizes) if self.chosen is None else len(self.chosen)

    @cached_property
    def order(self) -> Whole:
        """The place of each photo among all that are stored, (N,)."""
        return np.arange(len(self.sizes)) if self.chosen is None else self.chosen

    @property
    def own_sizes(self) -> Whole:
        """Height and width of each of the photos that are meant, (N, 2)."""
        return self.sizes[self.order]

    @property
    def one_size(self) -> tuple[int | None, int | None]:
        """The height and the width of all photos; None where these are files of any size."""
        if not self.pixels:
            return None, None
        height, width = map(int, self.sizes[0])
        return height, width

    def choose(self, index: Whole) -> Photos:
        """Some of the photos, in the order of the index."""
        return replace(self, chosen=self.order[index])

    def open(self, index: int) -> Image.Image:
        """One photo, decoded: in grey (`L`) where all photos are, else in colour (`RGB`).

        Raises `DataError` with its name where its bytes are no longer those that were stored.
        """
        at = int(self.order[index])
        content = self._read(at)
        if not self.pixels:
            name = partial(self.find_name, at)
            return decode_photo(content.tobytes(), name, self.channels)
        height, width = map(int, self.sizes[at])
        values = content.reshape(self.channels, height, width)
        return Image.fromarray(
            values[0] if self.channels == 1 else values.transpose(1, 2, 0).copy()
        )

    def find_name(self, at: int) -> str:
        """The name of the file of a stored photo; its number where names are not known."""
        if self.names is None or self.name_starts is None:
            return f"{'image' if self.pixels else 'photo'} {at} of {self.split}"
        content = self.names[int(self.name_starts[at]) : int(self.name_starts[at + 1])]
        return content.tobytes().decode(errors="replace")

    def _read(self, at: int) -> Bytes:
        """The bytes of a stored photo; `DataError` where they are not those that were stored."""
        try:
            content = self.content[int(self.starts[at]) : int(self.starts[at + 1])]
        except DataError as error:
            raise DataError(f"{self.find_name(at)}: {error.message}") from None
        if self.checksums is not None and zlib.crc32(content.data) != int(self.checksums[at]):
            raise DataError(
                f"{self.find_name(at)}: its bytes are not those that were stored (CRC-32): the "
                "stored dataset is damaged, upload it again"
            )
        return content


def find_starts(lengths: Iterable[int]) -> Whole:
    """The place of each part when all are put one after the other, and the end of the last.

    >>> find_starts([3, 5]).tolist()
    [0, 3, 8]
    """
    return np.cumsum([0, *lengths], dtype=np.int64)


class DifferingSizesError(DataError):
    """Images of one dataset differ in size, so that their files are kept."""


def may_have_one_size(
    archive: zipfile.ZipFile, entries: Mapping[str, Sequence[zipfile.ZipInfo]]
) -> bool:
    """Whether some images of a zip, listed by split, have one size by their headers.

    It looks at no more than `SAMPLE` of them; what is no image is left to decoding, which names it.
    """
    listed = list(chain.from_iterable(entries.values()))
    sizes = set()
    for entry in listed[:: max(1, len(listed) // SAMPLE)]:
        with suppress(DataError), open_image(archive, entry) as image:
            sizes.add(find_upright_size(image))
    return len(sizes) < 2


def read_photos(
    archive: zipfile.ZipFile,
    entries: Mapping[str, Sequence[zipfile.ZipInfo]],
    max_bytes: int,
    faults: list[DataError],
    scratch: Path | None = None,
) -> dict[str, Photos]:
    """The photos of a zip by split, their files as they are, of which each was decoded once.

    The bytes of the files lie in a file in `scratch`, not in memory. What is wrong with single
    files is added to `faults`. Raises `DataError` for more bytes than are accepted.
    """
    listed: dict[str, _PhotoList] = {}
    channels = 1
    total = 0
    for split, split_entries in entries.items():
        listed[split] = _PhotoList(Spool(scratch))
        for entry in split_entries:
            try:
                content = read_entry(archive, entry)
                with open_bytes(content, entry.filename) as image:
                    width, height = find_upright_size(image)
                    image.load()
                    channels = max(channels, count_channels(image))
            except DataError as fault:
                faults.append(fault)
                continue
            total += len(content)
            if total > max_bytes:
                raise DataError(f"the photos have more than {max_bytes} bytes")
            listed[split].append(content, (height, width), entry.filename)
    return {split: photos.finish(split, channels) for split, photos in listed.items()}


@dataclass
class _PhotoList:
    """The photos of a split that were read so far."""

    content: Spool
    lengths: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    checksums: list[int] = field(default_factory=list)
    names: list[bytes] = field(default_factory=list)

    def append(self, content: bytes, size: tuple[int, int], name: str) -> None:
        """Add a photo by the bytes of its file."""
        self.content.append(content)
        self.lengths.append(len(content))
        self.sizes.append(size)
        self.checksums.append(zlib.crc32(content))
        self.names.append(name.encode(errors="replace"))

    def finish(self, split: str, channels: int) -> Photos:
        """All of them."""
        return Photos(
            content=self.content.finish(),
            starts=find_starts(self.lengths),
            sizes=np.array(self.sizes, np.int64).reshape(-1, 2),
            channels=channels,
            split=split,
            checksums=np.array(self.checksums, np.uint32),
            names=np.frombuffer(b"".join(self.names), np.uint8),
            name_starts=find_starts(map(len, self.names)),
        )


def preprocess_image(image: Image.Image, resizing: Resizing) -> Image.Image:
    """Resize an image and cut the square from its middle.

    The longer side becomes floor(resize * longer / shorter), the square begins at the nearest whole
    number to half of what is left, ties to even. Source: torchvision.transforms.functional,
    `resize` and `center_crop`.
    """
    image = resize_image(image, resizing)
    if resizing.crop is None:
        return image
    left = round((image.width - resizing.crop) / 2)
    top = round((image.height - resizing.crop) / 2)
    return image.crop((left, top, left + resizing.crop, top + resizing.crop))


def resize_image(image: Image.Image, resizing: Resizing) -> Image.Image:
    """Resize the shorter side, or both sides, of an image to what is asked."""
    if resizing.resize is None:
        return image
    if isinstance(resizing.resize, tuple):
        height, width = resizing.resize
    else:
        shorter = min(image.size)
        width, height = (
            resizing.resize if side == shorter else int(resizing.resize * side / shorter)
            for side in image.size
        )
    if (width, height) == image.size:
        return image
    return image.resize((width, height), RESAMPLING[resizing.interpolation or "bilinear"])


@dataclass(frozen=True)
class Box:
    """A part of a photo, in pixels, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    mirrored: bool


def crop_image(image: Image.Image, box: Box, output: tuple[int, int], filter: str) -> Image.Image:
    """Cut a part out of an image, resize it to (height, width) and mirror it where the box says so.

    Source: torchvision.transforms.v2, `RandomResizedCrop` and `RandomHorizontalFlip`.
    """
    right, bottom = box.left + box.width, box.top + box.height
    part = image.crop((box.left, box.top, right, bottom))
    height, width = output
    if part.size != (width, height):
        part = part.resize((width, height), RESAMPLING[filter])
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if box.mirrored else part


def decode_all(
    photos: Photos,
    indices: Iterable[int],
    output: tuple[int, int],
    change: Callable[[Image.Image, int], Image.Image],
    *,
    workers: int,
) -> Pixels:
    """Some photos, uint8 (n, C, H, W), each changed by a function of the image and its turn.

    They are read and decoded by several threads; the result does not depend on how many.
    """
    wanted = list(indices)
    pixels = np.empty((len(wanted), photos.channels, *output), np.uint8)

    def decode(turn: int) -> None:
        pixels[turn] = to_pixels(change(photos.open(wanted[turn]), turn))

    turns = range(len(wanted))
    if workers == 1 or len(wanted) == 1:
        for turn in turns:
            decode(turn)
    else:
        list(_pool(workers).map(decode, turns))
    return pixels


@lru_cache(maxsize=1)
def _pool(workers: int) -> ThreadPoolExecutor:
    """The threads that decode photos."""
    return ThreadPoolExecutor(workers)
