"""Uploaded datasets: a zip of images, npz or safetensors, checked and decoded.

Free of torch; pickle never runs.
"""

from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from pruning.data import segmentation
from pruning.data.arrays import IGNORED, SPLITS, Arrays
from pruning.data.groups import TABLE, describe_clusters, name_column, read_columns, read_table
from pruning.data.images import SUFFIXES, Pixels, decode_image, is_hidden, widen_to_channels
from pruning.data.photos import DifferingSizesError, Photos, may_have_one_size, read_photos
from pruning.errors import DataError, UnsafeFormatError
from pruning.storage.signatures import is_pickle, is_safetensors

MAX_ENTRIES = 5_000_000
MAX_RATIO = 200
"""The most times that an entry of a zip may expand."""
TRAINED = frozenset({"train_x", "train_y", "test_x", "test_y"})
SHIFTED = frozenset({"test_x", "test_y"})
"""The arrays of a dataset that only tests: images of a shifted distribution."""
MAX_CLASSES = 100_000
CLASS_FOLDERS = f"train/<class>/<image>, test/<class>/<image>, and optionally {TABLE}"

Labels = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class _ImageFile:
    """An image of a zip and the name of its class, which is its folder."""

    label: str
    entry: zipfile.ZipInfo

    @property
    def is_jpeg(self) -> bool:
        """Whether the name of the file is that of a JPEG."""
        return PurePosixPath(self.entry.filename).suffix.lower() in (".jpg", ".jpeg")


def read_dataset(path: Path, filename: str, max_values: int) -> Arrays:
    """The dataset in the file; `max_values` limits the decoded size in uint8 values.

    Raises `DataError` for a file that does not fit, `UnsafeFormatError` for one that could run code
    or leave its folder.
    """
    with path.open("rb") as file:
        head = file.read(9)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        with _open_zip(path) as archive:
            _check_zip(archive, max_values)
            names = archive.namelist()
            if names and all(PurePosixPath(name).name.endswith(".npy") for name in names):
                return _convert_arrays(
                    {name.removesuffix(".npy"): _read_npy(archive, name) for name in names}
                )
            if segmentation.has_masks(archive):
                return segmentation.read_segmentation(archive, max_values)
            return _read_class_folders(archive, max_values)
    if is_pickle(head) and not is_safetensors(head):
        raise UnsafeFormatError("this is a pickle; send a zip of images, npz or safetensors")
    try:
        return _convert_arrays(dict(load_file(path)))
    # TypeError: bfloat16, which NumPy does not know
    except (SafetensorError, KeyError, TypeError) as error:
        raise DataError(
            f"{filename}: neither a zip of images nor npz nor safetensors ({error})"
        ) from None


def _open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip; `DataError` where it cannot be read."""
    try:
        return zipfile.ZipFile(path)
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        struct.error,
        ValueError,
        OSError,
        IndexError,
    ) as error:
        raise DataError(f"not a readable zip: {error}") from None


def _check_zip(archive: zipfile.ZipFile, max_values: int) -> None:
    """Refuse a zip that is too large when unpacked, or that has an unsafe entry."""
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise DataError(f"the zip has {len(entries)} entries; at most {MAX_ENTRIES} are accepted")
    total = 0
    for entry in entries:
        _check_entry(entry)
        total += entry.file_size
    if total > max_values:
        raise DataError(f"the zip expands to {total} bytes; at most {max_values} are accepted")


def _check_entry(entry: zipfile.ZipInfo) -> None:
    """Refuse an entry that leaves its folder, is a link, is encrypted or expands too much."""
    if not entry.filename:
        raise DataError("the zip has an entry without a name")
    path = PurePosixPath(entry.filename.replace("\\", "/"))
    has_drive = bool(path.parts) and ":" in path.parts[0]
    if path.is_absolute() or ".." in path.parts or has_drive:
        raise UnsafeFormatError(f"the zip entry {entry.filename!r} leaves its folder")
    mode = entry.external_attr >> 16
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UnsafeFormatError(f"the zip entry {entry.filename!r} is a link or a device")
    if entry.flag_bits & 0x1:
        raise DataError(f"the zip entry {entry.filename!r} is encrypted")
    compressed = max(entry.compress_size, 1)
    if entry.file_size > MAX_RATIO * compressed and entry.file_size > 2**20:
        raise DataError(
            f"the zip entry {entry.filename!r} expands {entry.file_size / compressed:.0f} times; "
            f"at most {MAX_RATIO} times is accepted"
        )


def _read_npy(archive: zipfile.ZipFile, name: str) -> np.ndarray[Any, Any]:
    """The array of an entry; pickled objects are refused."""
    try:
        with archive.open(name) as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except ValueError as error:
        if "allow_pickle" in str(error) or "Object" in str(error):
            raise UnsafeFormatError(f"{name} holds Python objects (pickle); send numbers") from None
        raise DataError(f"{name}: {error}") from None
    except Exception as error:  # broken archives fail in many ways: zlib.error, MemoryError, ...
        raise DataError(f"{name}: {type(error).__name__}: {str(error)[:200]}") from None


def _convert_arrays(arrays: dict[str, np.ndarray[Any, Any]]) -> Arrays:
    """The dataset of arrays that were sent by name; classes are numbered by the labels."""
    columns = {name: name_column(name) for name in arrays}
    names = {name for name, column in columns.items() if column is None}
    has_both_or_no_val = ("val_x" in names) == ("val_y" in names)
    if names - {"val_x", "val_y"} not in (TRAINED, SHIFTED) or not has_both_or_no_val:
        raise DataError(
            f"arrays {sorted(arrays)}: expected train_x, train_y, test_x, test_y and optionally "
            "val_x, val_y and test_group_<column>; without train_x and train_y for images of a "
            "shifted distribution"
        )
    images = {}
    labels = {}
    for split in SPLITS:
        image_name = f"{split}_x"
        label_name = f"{split}_y"
        if image_name not in arrays:
            continue
        if split == "val" and len(arrays["val_x"]) + len(arrays["val_y"]) == 0:
            continue  # an empty `val` counts as missing
        images[split] = _put_channels_first(arrays[image_name], image_name)
        labels[split] = _convert_labels(arrays[label_name], label_name)
    if labels["test"].ndim == 3:
        classes = segmentation.count_classes(labels.values())
    else:
        largest = [int(values.max()) for values in labels.values() if values.size]
        classes = 1 + max(largest, default=0)
    groups = read_columns(
        {column: arrays[name] for name, column in columns.items() if column is not None},
        len(labels["test"]),
    )
    return Arrays(
        images,
        labels,
        tuple(map(str, range(max(classes, 1)))),
        notes=describe_clusters(groups),
        groups=groups,
    )


def _put_channels_first(array: np.ndarray[Any, Any], name: str) -> Pixels:
    """Images (N, C, H, W) from any of the accepted shapes."""
    if array.dtype != np.uint8:
        raise DataError(f"{name}: images must be uint8 (0..255), found {array.dtype}")
    if array.ndim == 3:
        return array[:, None]
    if array.ndim == 4 and array.shape[1] in (1, 3):
        return array
    if array.ndim == 4 and array.shape[3] in (1, 3):
        return np.ascontiguousarray(array.transpose(0, 3, 1, 2))
    raise DataError(
        f"{name}: shape {array.shape}; expected (N, H, W), (N, C, H, W) or (N, H, W, C) with 1 "
        "or 3 channels"
    )


def _convert_labels(array: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    """The classes of images, int64 (N,), or of pixels, uint8 (N, H, W)."""
    if array.ndim == 3 and array.dtype == np.uint8:
        return array
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(
            f"{name}: labels must be whole numbers of shape (N,), or masks uint8 (N, H, W) in "
            f"which {IGNORED} is ignored; found {array.dtype} {array.shape}"
        )
    if array.size and int(array.max()) >= MAX_CLASSES:
        raise DataError(f"{name}: the largest label is {array.max()}; labels count classes from 0")
    return array.astype(np.int64)


def _read_class_folders(archive: zipfile.ZipFile, max_values: int) -> Arrays:
    """The dataset of a zip in which the folder of an image names its class."""
    files = _sort_by_split(archive)
    classes = _name_classes(files)
    number = {label: index for index, label in enumerate(classes)}
    labels: dict[str, Labels] = {
        split: np.array([number[file.label] for file in split_files], np.int64)
        for split, split_files in files.items()
        if split_files
    }
    if not labels:
        raise DataError(f"the zip holds no images; expected {CLASS_FOLDERS}")
    entries = {split: [file.entry for file in files[split]] for split in labels}
    images, photos = _read_images(archive, entries, max_values)
    groups = read_table(
        archive,
        {file.entry.filename: split == "test" for split in SPLITS for file in files[split]},
    )
    all_jpeg = all(file.is_jpeg for split_files in files.values() for file in split_files)
    return Arrays(
        images,
        labels,
        classes,
        notes=describe_clusters(groups),
        stored_as="JPEG" if all_jpeg else None,
        groups=groups,
        photos=photos,
    )


def _sort_by_split(archive: zipfile.ZipFile) -> dict[str, list[_ImageFile]]:
    """The images of a zip by split, in the order of their file names; hidden files are skipped."""
    files: dict[str, list[_ImageFile]] = {split: [] for split in SPLITS}
    for entry in archive.infolist():
        if is_hidden(entry) or entry.filename == TABLE:
            continue
        parts = PurePosixPath(entry.filename).parts
        fits = (
            len(parts) == 3
            and parts[0] in SPLITS
            and PurePosixPath(parts[2]).suffix.lower() in SUFFIXES
        )
        if not fits:
            raise DataError(
                f"the zip entry {entry.filename!r} does not fit the layout {CLASS_FOLDERS}"
            )
        split, label, _ = parts
        files[split].append(_ImageFile(label, entry))
    for split_files in files.values():
        split_files.sort(key=lambda file: file.entry.filename)
    return files


def _name_classes(files: Mapping[str, Sequence[_ImageFile]]) -> tuple[str, ...]:
    """The classes of the training images, or of all images where there are none, in order."""
    all_files = [file for split_files in files.values() for file in split_files]
    classes = {file.label for file in files["train"] or all_files}
    for split, split_files in files.items():
        unknown = {file.label for file in split_files} - classes
        if unknown:
            raise DataError(f"class {min(unknown)!r} is in {split} but not in train")
    return tuple(sorted(classes))


def _read_images(
    archive: zipfile.ZipFile, entries: Mapping[str, Sequence[zipfile.ZipInfo]], max_values: int
) -> tuple[dict[str, Pixels], dict[str, Photos]]:
    """The images by split: pixels where all have one size, else photos."""
    if may_have_one_size(archive, entries):
        try:
            return _decode_splits(archive, entries, max_values), {}
        except DifferingSizesError:
            pass
    faults: list[DataError] = []
    photos = read_photos(archive, entries, max_values, faults)
    if faults:
        raise faults[0]
    return {}, photos


def _decode_splits(
    archive: zipfile.ZipFile, entries: Mapping[str, Sequence[zipfile.ZipInfo]], max_values: int
) -> dict[str, Pixels]:
    """Images of one size by split, in colour in all splits where one is in colour.

    Raises `DifferingSizesError`.
    """
    images: dict[str, Pixels] = {}
    for split, split_entries in entries.items():
        remaining = max_values - sum(array.size for array in images.values())
        images[split] = _decode_images(archive, split_entries, remaining)
    channels = max(array.shape[1] for array in images.values())
    pixels = sum(array.size // array.shape[1] for array in images.values())
    if pixels * channels > max_values:
        raise DataError(f"the images decode to more than {max_values} values")
    if len({array.shape[2:] for array in images.values()}) > 1:
        raise DifferingSizesError("images of the splits differ in size")
    return {split: widen_to_channels(array, channels) for split, array in images.items()}


def _decode_images(
    archive: zipfile.ZipFile, entries: Sequence[zipfile.ZipInfo], max_values: int
) -> Pixels:
    """Images (N, C, H, W): C = 1 when all are grey, else 3, a grey one three times the same."""
    first = decode_image(archive, entries[0])
    # Without channels until the first image is written below, and widened at the first in colour.
    pixels = np.empty((len(entries), 0, *first.shape[1:]), np.uint8)
    for index, entry in enumerate(entries):
        image = decode_image(archive, entry) if index else first
        channels = len(image)
        if channels > pixels.shape[1]:
            if image.size * len(entries) > max_values:
                raise DataError(
                    f"{len(entries)} images of {image.shape} decode to more than {max_values} "
                    "values"
                )
            if index:
                pixels = widen_to_channels(pixels, channels)
            else:
                pixels = np.empty((len(entries), *image.shape), np.uint8)
        if image.shape[1:] != first.shape[1:]:
            raise DifferingSizesError(f"{entry.filename} has another size than the first image")
        pixels[index] = image
    return pixels
