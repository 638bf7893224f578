"""Semantic segmentation datasets: a zip of images and of masks, the class of every pixel.

Free of torch.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from pruning.data.arrays import IGNORED, SPLITS, Arrays
from pruning.data.images import (
    GREY,
    SUFFIXES,
    Pixels,
    decode_image,
    is_hidden,
    open_image,
    widen_to_channels,
)
from pruning.errors import DataError

CLASSES = "classes.txt"
LAYOUT = (
    "images/<split>/<name>.jpg with masks/<split>/<name>.png (or <split>/images/..., "
    "<split>/masks/...), split = train, val, test; or images/<name> with masks/<name>; and "
    f"optionally {CLASSES}"
)
TEST_FRACTION = 0.2
SEED = 0


@dataclass(frozen=True)
class Pair:
    """An image and its mask."""

    image: zipfile.ZipInfo
    mask: zipfile.ZipInfo


@dataclass(frozen=True)
class Size:
    """The size of an image before it is padded."""

    channels: int
    height: int
    width: int

    @property
    def inside(self) -> tuple[slice, slice, slice]:
        """The place of the image (C, H, W) in the padded one."""
        return slice(None), slice(self.height), slice(self.width)


def has_masks(archive: zipfile.ZipFile) -> bool:
    """Whether the folders of the zip are named as in one of the layouts with masks."""
    paths = [PurePosixPath(entry.filename) for entry in archive.infolist() if not is_hidden(entry)]
    starts = {path.parts[:2] for path in paths if path.parts}
    for start in starts:
        first = start[0]
        if first in ("images", "masks"):
            return True
        if first in SPLITS and start[1:] == ("masks",) and (first, "images") in starts:
            return True
    return False


def read_segmentation(archive: zipfile.ZipFile, max_values: int) -> Arrays:
    """Images with masks uint8 (N, H, W), their values the classes, 255 ignored.

    An ignored pixel counts in no loss and in no error. Images may differ in size: all are padded at
    the right and the bottom to the largest height and width, with the mean colour of the training
    images, so that padding is about 0 after normalisation, and with 255 in the mask, so that it is
    ignored. Without splits, a fifth of the pairs becomes `test`, drawn with a fixed seed; a note
    says so. Class names are the lines of `classes.txt`, or the numbers from 0 to the largest value.
    Raises `DataError`.
    """
    grouped_pairs, names = _pair_files(archive)
    pairs, notes = _assign_splits(grouped_pairs)
    sizes = {
        split: [_read_size(archive, pair) for pair in split_pairs]
        for split, split_pairs in pairs.items()
    }
    all_sizes = [size for split_sizes in sizes.values() for size in split_sizes]
    channels = max((size.channels for size in all_sizes), default=1)
    height = max((size.height for size in all_sizes), default=1)
    width = max((size.width for size in all_sizes), default=1)
    if len(all_sizes) * (channels + 1) * height * width > max_values:
        raise DataError(
            f"{len(all_sizes)} images with masks, padded to {height}x{width}, decode to more than "
            f"{max_values} values"
        )
    images: dict[str, Pixels] = {}
    masks: dict[str, Pixels] = {}
    for split, split_pairs in pairs.items():
        images[split] = np.zeros((len(split_pairs), channels, height, width), np.uint8)
        masks[split] = np.full((len(split_pairs), height, width), IGNORED, np.uint8)
        for index, (pair, size) in enumerate(zip(split_pairs, sizes[split], strict=True)):
            image = decode_image(archive, pair.image)
            mask = _read_mask(archive, pair, len(names) or IGNORED)
            images[split][index][size.inside] = widen_to_channels(image, channels, axis=0)
            masks[split][index, : size.height, : size.width] = mask
    _pad_(images, sizes)
    classes = names or tuple(map(str, range(count_classes(masks.values()))))
    if len({(size.height, size.width) for size in all_sizes}) > 1:
        notes.append(
            f"images of differing sizes were padded to {height} x {width} pixels; padding counts "
            "nowhere"
        )
    return Arrays(images, masks, classes, tuple(notes))


def count_classes(masks: Iterable[Pixels]) -> int:
    """The number of classes: the largest class in the masks, and one for class 0.

    >>> count_classes([np.array([[[0, 2], [255, 1]]], np.uint8)])
    3
    """
    largest = [int(mask[mask != IGNORED].max(initial=0)) for mask in masks]
    return 1 + max(largest, default=0)


def _pair_files(
    archive: zipfile.ZipFile,
) -> tuple[Mapping[str, Mapping[str, Pair]], tuple[str, ...]]:
    """The pairs by split ("" for none) and name, and the names of the classes, if there are any."""
    files: dict[str, dict[tuple[str, str], zipfile.ZipInfo]] = {"images": {}, "masks": {}}
    names: tuple[str, ...] = ()
    for entry in archive.infolist():
        if is_hidden(entry):
            continue
        path = PurePosixPath(entry.filename)
        if path.parts == (CLASSES,):
            names = _read_names(archive, entry)
            continue
        kind, split = _locate_file(entry)
        same_name = files[kind].get((split, path.stem))
        if same_name is not None:
            raise DataError(f"{entry.filename!r} and {same_name.filename!r} have the same name")
        files[kind][split, path.stem] = entry
    _check_complete(files)
    pairs: dict[str, dict[str, Pair]] = {}
    for split, name in sorted(files["images"]):
        pair = Pair(files["images"][split, name], files["masks"][split, name])
        pairs.setdefault(split, {})[name] = pair
    return pairs, names


def _locate_file(entry: zipfile.ZipInfo) -> tuple[str, str]:
    """The kind of a file, `images` or `masks`, and its split, "" for none."""
    path = PurePosixPath(entry.filename)
    if len(path.parts) == 3:
        # Both orders are accepted: images/train/a.jpg and train/images/a.jpg.
        kind, split = path.parts[:2]
        if kind in SPLITS:
            kind, split = split, kind
    else:
        kind = "".join(path.parts[:1])
        split = ""
    suffixes = SUFFIXES if kind == "images" else {".png"}
    fits = (
        len(path.parts) in (2, 3)
        and kind in ("images", "masks")
        and split in ("", *SPLITS)
        and path.suffix.lower() in suffixes
    )
    if not fits:
        raise DataError(f"the zip entry {entry.filename!r} does not fit the layout {LAYOUT}")
    return kind, split


def _check_complete(files: Mapping[str, Mapping[tuple[str, str], zipfile.ZipInfo]]) -> None:
    """Raise `DataError` where an image has no mask, or a mask no image."""
    for kind, other in (("images", "masks"), ("masks", "images")):
        unpaired = sorted(set(files[kind]) - set(files[other]))
        if unpaired:
            filename = files[kind][unpaired[0]].filename
            raise DataError(f"{filename!r} has no file of its name in {other}/")


def _read_names(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> tuple[str, ...]:
    """The names of the classes, one on each line of a text; the first is that of value 0."""
    try:
        lines = archive.read(entry).decode().splitlines()
    except Exception as error:  # broken archives fail in many ways
        raise DataError(f"{CLASSES}: not a readable text ({str(error)[:200]})") from None
    names = tuple(line.strip() for line in lines if line.strip())
    if len(set(names)) < len(names) or not 2 <= len(names) <= IGNORED:
        raise DataError(
            f"{CLASSES}: {len(names)} names, {len(set(names))} of them different; expected 2 to "
            f"{IGNORED}, one on each line, the first that of value 0"
        )
    return names


def _assign_splits(
    grouped: Mapping[str, Mapping[str, Pair]],
) -> tuple[dict[str, Sequence[Pair]], list[str]]:
    """The pairs by split, and notes on how they came there."""
    if "" not in grouped:
        return {split: list(grouped[split].values()) for split in SPLITS if split in grouped}, []
    if len(grouped) > 1:
        raise DataError(
            f"some images are in the folder of a split and others are not; expected {LAYOUT}"
        )
    pairs = list(grouped[""].values())
    test_size = max(1, round(TEST_FRACTION * len(pairs)))
    order = np.random.default_rng(SEED).permutation(len(pairs))
    test = [pairs[index] for index in sorted(order[:test_size].tolist())]
    train = [pairs[index] for index in sorted(order[test_size:].tolist())]
    note = (
        f"the zip has no splits: {test_size} of {len(pairs)} images, drawn with seed {SEED}, were "
        "set aside as test"
    )
    return {"train": train, "test": test}, [note]


def _read_size(archive: zipfile.ZipFile, pair: Pair) -> Size:
    """The channels, height and width of a pair, from the headers of its files."""
    with open_image(archive, pair.image) as image, open_image(archive, pair.mask, ("PNG",)) as mask:
        if image.size != mask.size:
            raise DataError(
                f"{pair.mask.filename}: {mask.width}x{mask.height} pixels, its image has "
                f"{image.width}x{image.height}"
            )
        channels = 1 if image.mode in GREY else 3
        return Size(channels, image.height, image.width)


def _read_mask(archive: zipfile.ZipFile, pair: Pair, classes: int) -> Pixels:
    """The classes of the pixels of a pair, uint8 (H, W)."""
    with open_image(archive, pair.mask, ("PNG",)) as image:
        if image.mode not in ("P", "L"):
            raise DataError(
                f"{pair.mask.filename}: {image.mode} pixels; a mask is a PNG with a palette or "
                "in grey of 8 bits, its values the classes"
            )
        mask = np.array(image, np.uint8)
    largest = int(mask[mask != IGNORED].max(initial=0))
    if largest >= classes:
        raise DataError(
            f"{pair.mask.filename}: value {largest}, but there are {classes} classes: values "
            f"must lie in 0..{classes - 1}, or be {IGNORED}, which is ignored"
        )
    return mask


def _pad_(images: Mapping[str, Pixels], sizes: Mapping[str, Sequence[Size]]) -> None:
    """Fill the padding of all images with the mean colour of the training images, in place.

    Where there are no training images, it is the mean colour of the first split.
    """
    split = "train" if "train" in images else next(iter(images), None)
    if split is None or not len(images[split]):
        return
    total = sum(
        image[size.inside].sum((1, 2), dtype=np.float64)
        for image, size in zip(images[split], sizes[split], strict=True)
    )
    pixels = sum(size.height * size.width for size in sizes[split])
    mean = np.rint(total / pixels).astype(np.uint8)[:, None, None]
    for split, split_images in images.items():
        for image, size in zip(split_images, sizes[split], strict=True):
            image[:, size.height :, :] = mean
            image[:, :, size.width :] = mean
