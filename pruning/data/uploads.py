"""Uploaded datasets: a zip of images, npz or safetensors, checked and decoded.

Free of torch; pickle never runs.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from pruning.data import parquet, segmentation
from pruning.data.archives import Archive, combine_faults, open_archive
from pruning.data.array_files import holds_arrays, read_npz, read_safetensors
from pruning.data.arrays import SPLITS, Arrays
from pruning.data.class_folders import list_class_folders
from pruning.data.groups import describe_clusters, read_table
from pruning.data.images import Pixels, decode_image
from pruning.data.photos import DifferingSizesError, Photos, may_have_one_size, read_photos
from pruning.data.scratch import allocate
from pruning.errors import DataError, UnsafeFormatError
from pruning.storage.signatures import is_pickle, is_safetensors, name_format


def read_dataset(
    path: Path,
    filename: str,
    max_values: int,
    class_names: tuple[str, ...] = (),
    *,
    scratch: Path | None = None,
) -> Arrays:
    """The dataset in the file; `max_values` limits the decoded size in uint8 values.

    `class_names` name numbered classes that the file does not name itself; temporary files are
    written to `scratch`. Raises `DataError` for a file that does not fit, `UnsafeFormatError` for
    one that could run code or leave its folder.
    """
    with path.open("rb") as file:
        head = file.read(9)
    if head.startswith(parquet.SIGNATURE):
        return _read_parquet({filename: path}, max_values, scratch)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        with open_archive(path, max_values) as archive:
            if any(name.rpartition("/")[2] == "data.pkl" for name in archive.namelist()):
                raise DataError(
                    f"{filename}: this is a file of torch.save, such as weights, which are "
                    "uploaded as a model; a dataset is npz, safetensors or a zip of the layout "
                    "train/<class>/<image>"
                )
            if holds_arrays(archive):
                return read_npz(archive, class_names)
            if parquet.holds_parquet(archive):
                with tempfile.TemporaryDirectory(dir=scratch) as folder:
                    files = parquet.unpack_parquet(archive, Path(folder))
                    return _read_parquet(files, max_values, scratch)
            if segmentation.has_masks(archive):
                return segmentation.read_segmentation(archive, max_values)
            return _read_class_folders(archive, max_values, class_names, scratch)
    if is_pickle(head) and not is_safetensors(head):
        raise UnsafeFormatError("this is a pickle; send a zip of images, npz or safetensors")
    known = None if is_safetensors(head) else name_format(head)
    if known is not None:
        raise DataError(
            f"{filename}: {known}; send a zip of images, npz or safetensors (an archive unpacked, "
            "and its folder packed as a zip)"
        )
    try:
        return read_safetensors(path, class_names)
    # TypeError: bfloat16, which NumPy does not know
    except (SafetensorError, KeyError, TypeError) as error:
        raise DataError(
            f"{filename}: neither a zip of images nor npz nor safetensors ({error})"
        ) from None


def _read_parquet(files: Mapping[str, Path], max_values: int, scratch: Path | None) -> Arrays:
    """The dataset of Parquet files by their names, through a temporary zip of class folders."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        packed = Path(folder) / "images.zip"
        notes = parquet.write_class_folders(files, packed, max_values)
        with open_archive(packed, max_values) as archive:
            arrays = _read_class_folders(archive, max_values, (), scratch)
    return replace(arrays, notes=(*notes, *arrays.notes))


def describe_dataset(arrays: Arrays) -> dict[str, Any]:
    """The document of a dataset that was read, as the service answers it."""
    return {
        "classes": list(arrays.classes),
        "shape": list(arrays.shape),
        "counts": arrays.counts,
        "task": arrays.task,
        "notes": list(arrays.notes),
        "groups": arrays.group_counts(),
        "guessing_error": arrays.guessing_error,
        "sizes": arrays.describe_sizes(),
    }


def _read_class_folders(
    archive: Archive, max_values: int, class_names: tuple[str, ...], scratch: Path | None
) -> Arrays:
    """The dataset of a zip in which the folder of an image names its class."""
    folders = list_class_folders(archive, class_names)
    files = folders.files
    labels = {
        split: np.array([folders.labels[file.label] for file in split_files], np.int64)
        for split, split_files in files.items()
    }
    entries = {split: [file.entry for file in split_files] for split, split_files in files.items()}
    images, photos = _read_images(archive, entries, max_values, scratch)
    groups = read_table(
        archive,
        {file.entry.filename: split == "test" for split in SPLITS for file in files.get(split, ())},
        archive.clean_path,
    )
    all_jpeg = all(file.is_jpeg for split_files in files.values() for file in split_files)
    return Arrays(
        images,
        labels,
        folders.classes,
        notes=(*folders.notes, *describe_clusters(groups)),
        stored_as="JPEG" if all_jpeg else None,
        groups=groups,
        photos=photos,
    )


def _read_images(
    archive: zipfile.ZipFile,
    entries: Mapping[str, Sequence[zipfile.ZipInfo]],
    max_values: int,
    scratch: Path | None,
) -> tuple[dict[str, Pixels], dict[str, Photos]]:
    """The images by split: pixels where all have one size, else photos; they lie in files in
    `scratch`.

    All files that are broken are named in one `DataError`.
    """
    faults: list[DataError] = []
    images: dict[str, Pixels] = {}
    photos: dict[str, Photos] = {}
    if may_have_one_size(archive, entries):
        with suppress(DifferingSizesError):
            images = _decode_splits(archive, entries, max_values, faults, scratch)
    if not images:
        faults.clear()
        photos = read_photos(archive, entries, max_values, faults, scratch)
    if faults:
        raise combine_faults(faults)
    return images, photos


def _decode_splits(
    archive: zipfile.ZipFile,
    entries: Mapping[str, Sequence[zipfile.ZipInfo]],
    max_values: int,
    faults: list[DataError],
    scratch: Path | None,
) -> dict[str, Pixels]:
    """Images of one size by split, in colour in all splits where one is in colour.

    What is wrong with single files is added to `faults`. Raises `DifferingSizesError`.
    """
    images: dict[str, Pixels] = {}
    for split, split_entries in entries.items():
        remaining = max_values - sum(array.size for array in images.values())
        images[split] = _decode_images(archive, split_entries, remaining, faults, scratch)
    channels = max(array.shape[1] for array in images.values())
    if faults:
        return images
    pixels = sum(array.size // array.shape[1] for array in images.values())
    if pixels * channels > max_values:
        raise DataError(f"the images decode to more than {max_values} values")
    if len({array.shape[2:] for array in images.values()}) > 1:
        raise DifferingSizesError("images of the splits differ in size")
    return {split: _widen(array, channels, scratch) for split, array in images.items()}


def _decode_images(
    archive: zipfile.ZipFile,
    entries: Sequence[zipfile.ZipInfo],
    max_values: int,
    faults: list[DataError],
    scratch: Path | None,
) -> Pixels:
    """Images (N, C, H, W): C = 1 when all are grey, else 3, a grey one three times the same.

    What is wrong with single files is added to `faults`, so that all of them can be told.
    """
    # Without channels until the first image is written below, and widened at the first in colour.
    pixels = np.empty((len(entries), 0, 0, 0), np.uint8)
    first = None
    for index, entry in enumerate(entries):
        try:
            image = decode_image(archive, entry)
        except DataError as fault:
            faults.append(fault)
            continue
        if first is None:
            first = image
            pixels = np.empty((len(entries), 0, *first.shape[1:]), np.uint8)
        channels = len(image)
        if channels > pixels.shape[1]:
            if image.size * len(entries) > max_values:
                raise DataError(
                    f"{len(entries)} images of {image.shape} decode to more than {max_values} "
                    "values"
                )
            if pixels.shape[1]:
                pixels = _widen(pixels, channels, scratch)
            else:
                pixels = allocate((len(entries), *image.shape), scratch)
        if image.shape[1:] != first.shape[1:]:
            raise DifferingSizesError(f"{entry.filename} has another size than the first image")
        pixels[index] = image
    return pixels


def _widen(images: Pixels, channels: int, scratch: Path | None) -> Pixels:
    """Grey images (N, 1, H, W) repeated to a number of channels."""
    if images.shape[1] == channels:
        return images
    widened = allocate((len(images), channels, *images.shape[2:]), scratch)
    for index, image in enumerate(images):
        widened[index] = image
    return widened
