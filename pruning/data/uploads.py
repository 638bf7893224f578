"""Uploaded datasets: a zip of images, npz or safetensors, checked and decoded. Free of torch,
pickle never runs.
"""

from __future__ import annotations

import stat
import struct
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from pruning.data import segmentation
from pruning.data.arrays import IGNORED, SPLITS, Arrays
from pruning.data.images import SUFFIXES, decode_image, widen_to_channels
from pruning.errors import DataError, UnsafeFormatError
from pruning.storage.signatures import is_pickle, is_safetensors

MAX_ENTRIES = 5_000_000
MAX_RATIO = 200
TRAINED = frozenset({"train_x", "train_y", "test_x", "test_y"})
SHIFTED = frozenset({"test_x", "test_y"})
"""A dataset that only tests: images of a shifted distribution."""


def read_dataset(path: Path, filename: str, max_values: int) -> Arrays:
    """The dataset in the file; `max_values` limits the decoded size in uint8 values.

    Raises `DataError` for what does not fit, `UnsafeFormatError` for what could run code or leave
    its folder.
    """
    with path.open("rb") as file:
        head = file.read(9)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        with _open_zip(path) as archive:
            _check_zip(archive, max_values)
            names = {PurePosixPath(name).name for name in archive.namelist()}
            if names and all(name.endswith(".npy") for name in names):
                return _from_arrays(
                    {
                        name.removesuffix(".npy"): _read_npy(archive, name)
                        for name in archive.namelist()
                    }
                )
            if segmentation.has_masks(archive):
                return segmentation.read_segmentation(archive, max_values)
            return _from_folder(archive, max_values)
    if is_pickle(head) and not is_safetensors(head):
        raise UnsafeFormatError("this is a pickle; send a zip of images, npz or safetensors")
    try:
        return _from_arrays(dict(load_file(path)))
    except (
        SafetensorError,
        KeyError,
        TypeError,
    ) as error:  # TypeError: bfloat16, which NumPy does not know
        raise DataError(
            f"{filename}: neither a zip of images nor npz nor safetensors ({error})"
        ) from None


def _open_zip(path: Path) -> zipfile.ZipFile:
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
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise DataError(f"the zip has {len(entries)} entries; at most {MAX_ENTRIES} are accepted")
    total = 0
    for entry in entries:
        if not entry.filename:
            raise DataError("the zip has an entry without a name")
        parts = PurePosixPath(entry.filename.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in (parts.parts or ("",))[0]:
            raise UnsafeFormatError(f"the zip entry {entry.filename!r} leaves its folder")
        mode = entry.external_attr >> 16
        if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UnsafeFormatError(f"the zip entry {entry.filename!r} is a link or a device")
        if entry.flag_bits & 0x1:
            raise DataError(f"the zip entry {entry.filename!r} is encrypted")
        if entry.file_size > MAX_RATIO * max(entry.compress_size, 1) and entry.file_size > 2**20:
            raise DataError(
                f"the zip entry {entry.filename!r} expands "
                f"{entry.file_size / max(entry.compress_size, 1):.0f}"
                f" times; at most {MAX_RATIO} times is accepted"
            )
        total += entry.file_size
    if total > max_values:
        raise DataError(f"the zip expands to {total} bytes; at most {max_values} are accepted")


def _read_npy(archive: zipfile.ZipFile, name: str) -> np.ndarray[Any, Any]:
    try:
        with archive.open(name) as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except ValueError as error:
        if "allow_pickle" in str(error) or "Object" in str(error):
            raise UnsafeFormatError(f"{name} holds Python objects (pickle); send numbers") from None
        raise DataError(f"{name}: {error}") from None
    except Exception as error:  # broken archives fail in many ways: zlib.error, NotImplementedError, MemoryError, ...
        raise DataError(f"{name}: {type(error).__name__}: {str(error)[:200]}") from None


def _from_arrays(arrays: dict[str, np.ndarray[Any, Any]]) -> Arrays:
    if set(arrays) - {"val_x", "val_y"} not in (TRAINED, SHIFTED) or ("val_x" in arrays) != (
        "val_y" in arrays
    ):
        raise DataError(
            f"arrays {sorted(arrays)}: expected train_x, train_y, test_x, test_y and optionally "
            "val_x, val_y; without train_x and train_y for images of a shifted distribution"
        )
    images, labels = {}, {}
    for split in SPLITS:
        if f"{split}_x" in arrays and (
            split != "val" or len(arrays["val_x"]) + len(arrays["val_y"])
        ):
            images[split] = _channels_first(arrays[f"{split}_x"], f"{split}_x")
            labels[split] = _labels(arrays[f"{split}_y"], f"{split}_y")
    classes = (
        segmentation.count_classes(labels.values())
        if labels["test"].ndim == 3
        else 1 + max((int(values.max()) for values in labels.values() if values.size), default=0)
    )
    return Arrays(images, labels, tuple(map(str, range(max(classes, 1)))))


def _channels_first(array: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
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


def _labels(array: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    """Classes of images, int64 (N,), or of pixels, uint8 (N, H, W)."""
    if array.ndim == 3 and array.dtype == np.uint8:
        return array
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(
            f"{name}: labels must be whole numbers of shape (N,), or masks uint8 (N, H, W) in "
            f"which {IGNORED} "
            f"is ignored; found {array.dtype} {array.shape}"
        )
    if array.size and int(array.max()) >= 100_000:
        raise DataError(f"{name}: the largest label is {array.max()}; labels count classes from 0")
    return array.astype(np.int64)


def _from_folder(archive: zipfile.ZipFile, max_values: int) -> Arrays:
    files: dict[str, list[tuple[str, zipfile.ZipInfo]]] = {split: [] for split in SPLITS}
    for entry in archive.infolist():
        parts = PurePosixPath(entry.filename).parts
        if entry.filename.endswith("/") or any(
            part.startswith((".", "__MACOSX")) for part in parts
        ):
            continue
        if (
            len(parts) != 3
            or parts[0] not in SPLITS
            or PurePosixPath(parts[2]).suffix.lower() not in SUFFIXES
        ):
            raise DataError(
                f"the zip entry {entry.filename!r} does not fit the layout train/<class>/<image>, "
                "test/<class>/<image>"
            )
        files[parts[0]].append((parts[1], entry))
    classes = tuple(
        sorted(
            {
                label
                for label, _ in files["train"] or [one for some in files.values() for one in some]
            }
        )
    )
    number = {label: index for index, label in enumerate(classes)}
    for split, entries in files.items():
        strange = {label for label, _ in entries} - set(number)
        if strange:
            raise DataError(f"class {min(strange)!r} is in {split} but not in train")
    images: dict[str, np.ndarray[Any, np.dtype[np.uint8]]] = {}
    labels: dict[str, np.ndarray[Any, np.dtype[np.int64]]] = {}
    for split, entries in files.items():
        if entries:
            entries.sort(key=lambda item: item[1].filename)
            images[split] = _decode(
                archive,
                [entry for _, entry in entries],
                max_values - sum(array.size for array in images.values()),
            )
            labels[split] = np.array([number[label] for label, _ in entries], np.int64)
    if not images:
        raise DataError(
            "the zip holds no images; expected train/<class>/<image>, test/<class>/<image>"
        )
    channels = max(array.shape[1] for array in images.values())
    if sum(array.size // array.shape[1] for array in images.values()) * channels > max_values:
        raise DataError(f"the images decode to more than {max_values} values")
    compressed = all(
        PurePosixPath(entry.filename).suffix.lower() in (".jpg", ".jpeg")
        for entries in files.values()
        for _, entry in entries
    )
    return Arrays(
        {split: widen_to_channels(array, channels) for split, array in images.items()},
        labels,
        classes,
        stored_as="JPEG" if compressed else None,
    )


def _decode(
    archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo], max_values: int
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Images (N, C, H, W): C = 1 when all are grey, else 3, a grey one three times the same."""
    first = decode_image(archive, entries[0])
    out = np.empty((len(entries), 0, *first.shape[1:]), np.uint8)
    for index, entry in enumerate(entries):
        image = decode_image(archive, entry) if index else first
        if len(image) > out.shape[1]:
            if image.size * len(entries) > max_values:
                raise DataError(
                    f"{len(entries)} images of {image.shape} decode to more than {max_values} "
                    "values"
                )
            out = (
                widen_to_channels(out, len(image))
                if index
                else np.empty((len(entries), *image.shape), np.uint8)
            )
        if image.shape[1:] != first.shape[1:]:
            raise DataError(
                f"{entry.filename}: {image.shape[2]}x{image.shape[1]} pixels beside "
                f"{first.shape[2]}x{first.shape[1]}; all images must have one size"
            )
        out[index] = image
    return out
