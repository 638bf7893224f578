"""Semantic segmentation datasets: a zip of images and of masks, the class of every pixel.

Free of torch.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from pruning.data.archives import Archive, combine_faults, is_document, list_names
from pruning.data.arrays import IGNORED, SPLITS, Arrays
from pruning.data.class_names import CLASSES, read_names
from pruning.data.frames import UPRIGHT, find_upright_size, read_orientation, turn_upright
from pruning.data.images import (
    GREY,
    SUFFIXES,
    Pixels,
    decode_image,
    open_image,
    widen_to_channels,
)
from pruning.data.splits import SEED, TEST_FRACTION, find_split, replace_missing_test
from pruning.errors import DataError

LAYOUT = (
    "images/<split>/<name>.jpg with masks/<split>/<name>.png (or <split>/images/..., "
    "<split>/masks/...), split = train, val, test; or images/<name> with masks/<name>; and "
    f"optionally {CLASSES}"
)
KINDS = ("images", "masks")


@dataclass(frozen=True)
class Pair:
    """An image and its mask."""

    image: zipfile.ZipInfo
    mask: zipfile.ZipInfo


@dataclass(frozen=True)
class Size:
    """The size of an image, upright and before it is padded."""

    channels: int
    height: int
    width: int
    mask_orientation: int = UPRIGHT
    """The EXIF orientation from which the mask is turned."""

    @property
    def inside(self) -> tuple[slice, slice, slice]:
        """The place of the image (C, H, W) in the padded one."""
        return slice(None), slice(self.height), slice(self.width)


def has_masks(archive: zipfile.ZipFile) -> bool:
    """Whether the folders of the zip are named as in one of the layouts with masks."""
    paths = [PurePosixPath(name.lower()) for name in archive.namelist()]
    starts = {path.parts[:2] for path in paths if len(path.parts) > 1}
    if "masks" in {first for first, _ in starts}:
        return True
    return any(
        find_split(first) and second == "masks" and (first, "images") in starts
        for first, second in starts
    )


def read_segmentation(archive: Archive, max_values: int) -> Arrays:
    """Images with masks uint8 (N, H, W), their values the classes, 255 ignored.

    An ignored pixel counts in no loss and in no error. Images may differ in size: all are padded at
    the right and the bottom to the largest height and width, with the mean colour of the training
    images, so that padding is about 0 after normalisation, and with 255 in the mask, so that it is
    ignored. Without splits, a fifth of the pairs becomes `test`, drawn with a fixed seed; a note
    says so. Class names are the lines of `classes.txt`, or the numbers from 0 to the largest value.
    An image is turned as its EXIF orientation says, and its mask with it where the mask has the
    size of the image as it is stored. Raises `DataError`.
    """
    grouped_pairs, names = _pair_files(archive)
    pairs, notes = _assign_splits(grouped_pairs)
    notes = [*archive.notes, *notes]
    sizes = _read_sizes(archive, pairs)
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
    faults: list[DataError] = []
    for split, split_pairs in pairs.items():
        images[split] = np.zeros((len(split_pairs), channels, height, width), np.uint8)
        masks[split] = np.full((len(split_pairs), height, width), IGNORED, np.uint8)
        for index, (pair, size) in enumerate(zip(split_pairs, sizes[split], strict=True)):
            try:
                image = decode_image(archive, pair.image)
                mask = _read_mask(archive, pair, size.mask_orientation, len(names) or IGNORED)
            except DataError as fault:
                faults.append(fault)
                continue
            images[split][index][size.inside] = widen_to_channels(image, channels)
            masks[split][index, : size.height, : size.width] = mask
    if faults:
        raise combine_faults(faults)
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
    archive: Archive,
) -> tuple[Mapping[str, Mapping[str, Pair]], tuple[str, ...]]:
    """The pairs by split ("" for none) and name, and the names of the classes, if there are any."""
    files: dict[str, dict[tuple[str, str], zipfile.ZipInfo]] = {"images": {}, "masks": {}}
    misfits = []
    for entry in archive.infolist():
        path = PurePosixPath(entry.filename)
        if len(path.parts) == 1 and is_document(entry.filename):
            continue
        place = _locate_file(entry)
        if place is None:
            misfits.append(entry.filename)
            continue
        kind, split = place
        same_name = files[kind].get((split, path.stem))
        if same_name is not None:
            raise DataError(f"{entry.filename!r} and {same_name.filename!r} have the same name")
        files[kind][split, path.stem] = entry
    if misfits:
        noun, verb = ("entry", "does") if len(misfits) == 1 else ("entries", "do")
        raise DataError(f"the zip {noun} {list_names(misfits)} {verb} not fit the layout {LAYOUT}")
    _check_complete(files)
    pairs: dict[str, dict[str, Pair]] = {}
    for split, name in sorted(files["images"]):
        pair = Pair(files["images"][split, name], files["masks"][split, name])
        pairs.setdefault(split, {})[name] = pair
    return pairs, read_names(archive, IGNORED)


def _locate_file(entry: zipfile.ZipInfo) -> tuple[str, str] | None:
    """The kind of a file, `images` or `masks`, and its split, "" for none; None for others."""
    path = PurePosixPath(entry.filename)
    folders = [folder.lower() for folder in path.parts[:-1]]
    # Both orders are accepted: images/train/a.jpg and train/images/a.jpg.
    kinds = [folder for folder in folders if folder in KINDS]
    splits = [split for folder in folders if (split := find_split(folder)) is not None]
    if len(kinds) != 1 or len(kinds) + len(splits) != len(folders) or len(folders) > 2:
        return None
    suffixes = SUFFIXES if kinds == ["images"] else {".png"}
    if path.suffix.lower() not in suffixes:
        return None
    return kinds[0], "".join(splits)


def _check_complete(files: Mapping[str, Mapping[tuple[str, str], zipfile.ZipInfo]]) -> None:
    """Raise `DataError` where an image has no mask, or a mask no image."""
    for kind, other in (("images", "masks"), ("masks", "images")):
        unpaired = sorted(set(files[kind]) - set(files[other]))
        if unpaired:
            paths = [files[kind][key].filename for key in unpaired]
            verb = "has" if len(paths) == 1 else "have"
            raise DataError(f"{list_names(paths)} {verb} no file of its name in {other}/")


def _assign_splits(
    grouped: Mapping[str, Mapping[str, Pair]],
) -> tuple[dict[str, Sequence[Pair]], list[str]]:
    """The pairs by split, and notes on how they came there."""
    if "" not in grouped:
        given = {split: list(grouped[split].values()) for split in SPLITS if split in grouped}
        by_split, notes = replace_missing_test(given)
        return by_split, list(notes)
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


def _read_sizes(archive: Archive, pairs: Mapping[str, Sequence[Pair]]) -> dict[str, list[Size]]:
    """The sizes of all pairs by split; `DataError` that tells all that do not fit."""
    sizes: dict[str, list[Size]] = {}
    faults: list[DataError] = []
    for split, split_pairs in pairs.items():
        sizes[split] = []
        for pair in split_pairs:
            try:
                sizes[split].append(_read_size(archive, pair))
            except DataError as fault:
                faults.append(fault)
    if faults:
        raise combine_faults(faults)
    return sizes


def _read_size(archive: Archive, pair: Pair) -> Size:
    """The channels, height and width of a pair, from the headers of its files."""
    with open_image(archive, pair.image) as image, open_image(archive, pair.mask, ("PNG",)) as mask:
        width, height = find_upright_size(image)
        orientation = read_orientation(mask)
        fits = find_upright_size(mask) == (width, height)
        if orientation == UPRIGHT and read_orientation(image) != UPRIGHT:
            fits_stored = mask.size == image.size
            if fits and fits_stored:
                raise DataError(
                    f"{pair.image.filename}: its EXIF orientation turns it, and its mask has none "
                    "and the same size either way; save the image upright, or the mask with the "
                    "same orientation"
                )
            if fits_stored:
                orientation = read_orientation(image)
                fits = True
        if not fits:
            raise DataError(
                f"{pair.mask.filename}: {mask.width}x{mask.height} pixels, its image has "
                f"{width}x{height}"
            )
        channels = 1 if image.mode in GREY else 3
        return Size(channels, height, width, orientation)


def _read_mask(archive: Archive, pair: Pair, orientation: int, classes: int) -> Pixels:
    """The classes of the pixels of a pair, upright, uint8 (H, W)."""
    with open_image(archive, pair.mask, ("PNG",)) as image:
        if image.mode not in ("P", "L"):
            raise DataError(
                f"{pair.mask.filename}: {image.mode} pixels; a mask is a PNG with a palette or "
                "in grey of 8 bits, its values the classes"
            )
        mask = np.array(turn_upright(image, orientation), np.uint8)
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
