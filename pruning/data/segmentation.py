"""Semantic segmentation datasets: a zip of images and of masks that tell the class of every pixel.
Free of torch.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from pruning.data.arrays import IGNORED, SPLITS, Arrays
from pruning.data.images import GREY, SUFFIXES, Pixels, decode_image, open_image, widen_to_channels
from pruning.errors import DataError

CLASSES = "classes.txt"
LAYOUT = (
    "images/<split>/<name>.jpg with masks/<split>/<name>.png (or <split>/images/..., "
    "<split>/masks/...), split = "
    f"train, val, test; or images/<name> with masks/<name>; and optionally {CLASSES}"
)
TEST_FRACTION = 0.2
SEED = 0


@dataclass(frozen=True)
class Pair:
    """An image and its mask."""

    image: zipfile.ZipInfo
    mask: zipfile.ZipInfo


def has_masks(archive: zipfile.ZipFile) -> bool:
    """Whether the zip is in one of the layouts with masks, as far as the names of its folders
    tell.
    """
    starts = {
        PurePosixPath(entry.filename).parts[:2]
        for entry in archive.infolist()
        if not _hidden(entry)
    }
    return any(
        parts[:1] in (("images",), ("masks",))
        or (parts[0] in SPLITS and parts[1:] == ("masks",) and (parts[0], "images") in starts)
        for parts in starts
        if parts
    )


def read_segmentation(archive: zipfile.ZipFile, max_values: int) -> Arrays:
    """Images with masks uint8 (N, H, W), their values the classes, 255 ignored: it counts in no
    loss and in no error.

    Images may differ in size: all are padded at the right and the bottom to the largest height and
    width, with the mean colour of the training images, so that padding is about 0 after
    normalisation, and with 255 in the mask, so that it counts nowhere. Without splits, a fifth of
    the pairs becomes `test`, drawn with a fixed seed; a note says so. Class names are the lines of
    `classes.txt`, or the numbers from 0 to the largest value. Raises `DataError`.
    """
    found, names = _sorted(archive)
    pairs, notes = _split(found)
    sizes = {split: [_size(archive, pair) for pair in mine] for split, mine in pairs.items()}
    every = [size for mine in sizes.values() for size in mine]
    channels = max((size[0] for size in every), default=1)
    height, width = (max((size[axis] for size in every), default=1) for axis in (1, 2))
    if len(every) * (channels + 1) * height * width > max_values:
        raise DataError(
            f"{len(every)} images with masks, padded to {height}x{width}, decode to more than "
            f"{max_values} "
            "values"
        )
    images = {
        split: np.zeros((len(mine), channels, height, width), np.uint8)
        for split, mine in pairs.items()
    }
    masks = {
        split: np.full((len(mine), height, width), IGNORED, np.uint8)
        for split, mine in pairs.items()
    }
    for split, mine in pairs.items():
        for index, (pair, (_, rows, columns)) in enumerate(zip(mine, sizes[split], strict=True)):
            images[split][index, :, :rows, :columns] = widen_to_channels(
                decode_image(archive, pair.image), channels, axis=0
            )
            masks[split][index, :rows, :columns] = _mask(archive, pair, len(names) or IGNORED)
    _pad_(images, sizes)
    classes = names or tuple(map(str, range(count_classes(masks.values()))))
    if len({size[1:] for size in every}) > 1:
        notes.append(
            f"images of differing sizes were padded to {height} x {width} pixels; padding counts "
            "nowhere"
        )
    return Arrays(images, masks, classes, tuple(notes))


def count_classes(masks: Iterable[Pixels]) -> int:
    """One more than the largest class in the masks.

    >>> count_classes([np.array([[[0, 2], [255, 1]]], np.uint8)])
    3
    """
    return 1 + max((int(mask[mask != IGNORED].max(initial=0)) for mask in masks), default=0)


def _hidden(entry: zipfile.ZipInfo) -> bool:
    parts = PurePosixPath(entry.filename).parts
    return entry.filename.endswith("/") or any(part.startswith((".", "__MACOSX")) for part in parts)


def _sorted(archive: zipfile.ZipFile) -> tuple[Mapping[str, Mapping[str, Pair]], tuple[str, ...]]:
    """Pairs by split ("" for none) and name, and the names of the classes, if there are any."""
    files: dict[str, dict[tuple[str, str], zipfile.ZipInfo]] = {"images": {}, "masks": {}}
    names: tuple[str, ...] = ()
    for entry in archive.infolist():
        path = PurePosixPath(entry.filename)
        parts = path.parts
        if _hidden(entry):
            continue
        if parts == (CLASSES,):
            names = _names(archive, entry)
            continue
        kind, split = parts[:2] if len(parts) == 3 else ("".join(parts[:1]), "")
        if kind in SPLITS:
            kind, split = split, kind
        suffixes = SUFFIXES if kind == "images" else {".png"}
        if (
            len(parts) not in (2, 3)
            or kind not in files
            or split not in ("", *SPLITS)
            or path.suffix.lower() not in suffixes
        ):
            raise DataError(f"the zip entry {entry.filename!r} does not fit the layout {LAYOUT}")
        if (split, path.stem) in files[kind]:
            raise DataError(
                f"{entry.filename!r} and {files[kind][split, path.stem].filename!r} have one name"
            )
        files[kind][split, path.stem] = entry
    for kind, other in (("images", "masks"), ("masks", "images")):
        alone = sorted(set(files[kind]) - set(files[other]))
        if alone:
            raise DataError(
                f"{files[kind][alone[0]].filename!r} has no file of its name in {other}/"
            )
    found: dict[str, dict[str, Pair]] = {}
    for split, name in sorted(files["images"]):
        found.setdefault(split, {})[name] = Pair(
            files["images"][split, name], files["masks"][split, name]
        )
    return found, names


def _names(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> tuple[str, ...]:
    try:
        lines = archive.read(entry).decode().splitlines()
    except Exception as error:  # broken archives fail in many ways
        raise DataError(f"{CLASSES}: not a readable text ({str(error)[:200]})") from None
    names = tuple(line.strip() for line in lines if line.strip())
    if len(set(names)) < len(names) or not 2 <= len(names) <= IGNORED:
        raise DataError(
            f"{CLASSES}: {len(names)} names, {len(set(names))} of them different; expected 2 to "
            f"{IGNORED}, "
            "one a line, the first that of value 0"
        )
    return names


def _split(found: Mapping[str, Mapping[str, Pair]]) -> tuple[dict[str, Sequence[Pair]], list[str]]:
    """Pairs by split, and what there is to say of how they came there."""
    if "" not in found:
        return {split: list(found[split].values()) for split in SPLITS if split in found}, []
    if len(found) > 1:
        raise DataError(
            f"some images are in the folder of a split and others are not; expected {LAYOUT}"
        )
    pairs = list(found[""].values())
    test = max(1, round(TEST_FRACTION * len(pairs)))
    order = np.random.default_rng(SEED).permutation(len(pairs))
    chosen = sorted(order[:test].tolist())
    rest = sorted(order[test:].tolist())
    note = (
        f"the zip has no splits: {test} of {len(pairs)} images, drawn with seed {SEED}, were "
        "set aside as test"
    )
    return {
        "train": [pairs[index] for index in rest],
        "test": [pairs[index] for index in chosen],
    }, [note]


def _size(archive: zipfile.ZipFile, pair: Pair) -> tuple[int, int, int]:
    """Channels, height and width of a pair, by the headers of its files."""
    with open_image(archive, pair.image) as image, open_image(archive, pair.mask, ("PNG",)) as mask:
        if image.size != mask.size:
            raise DataError(
                f"{pair.mask.filename}: {mask.width}x{mask.height} pixels, its image has "
                f"{image.width}x{image.height}"
            )
        return 1 if image.mode in GREY else 3, image.height, image.width


def _mask(archive: zipfile.ZipFile, pair: Pair, classes: int) -> Pixels:
    """The classes of the pixels, uint8 (H, W)."""
    with open_image(archive, pair.mask, ("PNG",)) as image:
        if image.mode not in ("P", "L"):
            raise DataError(
                f"{pair.mask.filename}: {image.mode} pixels; a mask is a PNG with a palette or "
                "in grey of 8 "
                "bits, its values the classes"
            )
        mask = np.array(image, np.uint8)
    largest = int(mask[mask != IGNORED].max(initial=0))
    if largest >= classes:
        raise DataError(
            f"{pair.mask.filename}: value {largest}, but there are {classes} classes: values "
            "must lie in "
            f"0..{classes - 1}, or be {IGNORED}, which is ignored"
        )
    return mask


def _pad_(
    images: Mapping[str, Pixels], sizes: Mapping[str, Sequence[tuple[int, int, int]]]
) -> None:
    """Fill what is beside and below each image with the mean colour of the training images, in
    place.
    """
    train = images.get("train", next(iter(images.values()), None))
    if train is None or not len(train):
        return
    mine = sizes["train"] if "train" in images else next(iter(sizes.values()))
    total = sum(
        image[:, :rows, :columns].sum((1, 2), dtype=np.float64)
        for image, (_, rows, columns) in zip(train, mine, strict=True)
    )
    mean = np.rint(total / sum(rows * columns for _, rows, columns in mine)).astype(np.uint8)[
        :, None, None
    ]
    for split, every in images.items():
        for image, (_, rows, columns) in zip(every, sizes[split], strict=True):
            image[:, rows:, :] = mean
            image[:, :, columns:] = mean
