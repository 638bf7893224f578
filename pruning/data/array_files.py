"""Datasets that come as arrays: npz, a zip of .npy files, or safetensors. Free of torch."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

from pruning.data import segmentation
from pruning.data.archives import Archive
from pruning.data.arrays import IGNORED, SPLITS, Arrays
from pruning.data.class_names import ARRAYS, MAX_CLASSES, parse_metadata, take_names
from pruning.data.groups import describe_clusters, name_column, read_columns
from pruning.data.image_arrays import put_channels_first, read_grey_levels
from pruning.data.images import Pixels
from pruning.data.shifted_arrays import is_shifted_collection, stack_shifted_arrays
from pruning.data.splits import find_split, replace_missing_test, split_by_class
from pruning.errors import DataError, UnsafeFormatError

KINDS = {
    "x": ("x", "images", "image", "data"),
    "y": ("y", "labels", "label", "targets", "target"),
}
"""The words for images and for labels in the names of arrays."""
EXPECTED = (
    "train_x, train_y, test_x, test_y and optionally val_x, val_y, test_group_<column> and "
    f"{ARRAYS[0]}; without train_x and train_y for images of a shifted distribution; x and y "
    "without splits; or, for several shifted distributions, labels beside arrays of their images"
)

WHOLE = "whole"
"""The name of images that come without splits."""

Named = dict[str, np.ndarray[Any, Any]]
Labels = np.ndarray[Any, np.dtype[np.int64]]


def holds_arrays(archive: zipfile.ZipFile) -> bool:
    """Whether the zip holds arrays alone."""
    names = archive.namelist()
    return bool(names) and all(name.endswith(".npy") for name in names)


def read_npz(archive: Archive, class_names: tuple[str, ...] = ()) -> Arrays:
    """The dataset of the arrays in a zip; classes are those of the zip, else `class_names`."""
    arrays = {name.removesuffix(".npy"): _read_npy(archive, name) for name in archive.namelist()}
    return convert_arrays(arrays, take_names(arrays) or class_names)


def read_safetensors(path: Path, class_names: tuple[str, ...] = ()) -> Arrays:
    """The dataset of a safetensors file, whose metadata may name the classes in JSON.

    Raises what the library raises for a file that is none.
    """
    with safe_open(path, framework="numpy") as file:
        metadata: Mapping[str, str] = file.metadata() or {}
    return convert_arrays(dict(load_file(path)), parse_metadata(metadata) or class_names)


def convert_arrays(arrays: Named, class_names: tuple[str, ...] = ()) -> Arrays:
    """The dataset of arrays that were sent by name; classes are numbered by the labels."""
    arrays = _rename_arrays(arrays)
    if is_shifted_collection(arrays):
        arrays = stack_shifted_arrays(arrays)
    columns = {
        column: arrays.pop(name)
        for name in sorted(arrays)
        if (column := name_column(name)) is not None
    }
    splits = _list_splits(arrays)
    images, labels, notes = _convert_splits(arrays, splits)
    if WHOLE in images:
        images, labels, note = _draw_test(images[WHOLE], labels[WHOLE])
    else:
        order, note = replace_missing_test({split: (split,) for split in SPLITS if split in images})
        images = {split: images[given] for split, (given,) in order.items()}
        labels = {split: labels[given] for split, (given,) in order.items()}
    groups = read_columns(columns, len(labels["test"]))
    return Arrays(
        images,
        labels,
        _name_classes(labels, class_names),
        notes=(*notes, *note, *describe_clusters(groups)),
        groups=groups,
    )


def _read_npy(archive: zipfile.ZipFile, name: str) -> np.ndarray[Any, Any]:
    """The array of an entry; pickled objects are refused, and shapes beyond the bytes there are."""
    try:
        with archive.open(name) as file:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read_header(file)
        claimed = math.prod(shape) * dtype.itemsize
        held = archive.getinfo(name).file_size
        if claimed > held and not dtype.hasobject:
            raise DataError(f"{name}: an array of {claimed} bytes in a file of {held}")
        with archive.open(name) as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except DataError:
        raise
    except ValueError as error:
        if "allow_pickle" in str(error) or "Object" in str(error):
            raise UnsafeFormatError(f"{name} holds Python objects (pickle); send numbers") from None
        raise DataError(f"{name}: {error}") from None
    except Exception as error:  # broken archives fail in many ways: zlib.error, MemoryError, ...
        raise DataError(f"{name}: {type(error).__name__}: {str(error)[:200]}") from None


def _rename_arrays(arrays: Named) -> Named:
    """The arrays under the names that this service has for them.

    `x_train`, `train_images` and `training_data` are `train_x`; `targets` is `y`.
    """
    renamed: Named = {}
    for name, array in arrays.items():
        usual = _find_usual_name(name)
        if usual in renamed:
            raise DataError(f"arrays {sorted(arrays)}: two of them are {usual}")
        renamed[usual] = array
    return renamed


def _find_usual_name(name: str) -> str:
    """The name that this service has for an array.

    >>> [_find_usual_name(name) for name in ("X_train", "val_labels", "images", "test_group_sex")]
    ['train_x', 'val_y', 'x', 'test_group_sex']
    """
    first, _, last = name.lower().partition("_")
    before, _, final = name.lower().rpartition("_")
    for kind, words in KINDS.items():
        if name.lower() in words:
            return kind
        split = (find_split(before) if final in words else None) or (
            find_split(last) if first in words else None
        )
        if split is not None:
            return f"{split}_{kind}"
    return name


def _list_splits(arrays: Named) -> tuple[str, ...]:
    """The splits of these arrays, `WHOLE` for arrays without; `DataError` for another set."""
    if set(arrays) == {"x", "y"}:
        for kind in "xy":
            arrays[f"{WHOLE}_{kind}"] = arrays.pop(kind)
        return (WHOLE,)
    splits = tuple(split for split in SPLITS if f"{split}_x" in arrays)
    complete = {f"{split}_{kind}" for split in splits for kind in "xy"}
    if set(arrays) != complete or not {"val", "test"} & set(splits):
        raise DataError(f"arrays {sorted(arrays)}: expected {EXPECTED}")
    return splits


def _convert_splits(
    arrays: Named, splits: Sequence[str]
) -> tuple[dict[str, Pixels], Named, tuple[str, ...]]:
    """The images and labels by split, and notes on how they were read."""
    images: dict[str, Pixels] = {}
    labels: Named = {}
    notes: tuple[str, ...] = ()
    for split in splits:
        image_name = f"{split}_x"
        label_name = f"{split}_y"
        if split == "val" and len(arrays[image_name]) + len(arrays[label_name]) == 0:
            continue  # an empty `val` counts as missing
        levels, note = read_grey_levels(arrays[image_name], image_name)
        images[split] = put_channels_first(levels, image_name)
        labels[split] = _convert_labels(arrays[label_name], label_name)
        notes += note
    return images, labels, notes


def _draw_test(images: Pixels, labels: Labels) -> tuple[dict[str, Pixels], Named, tuple[str, ...]]:
    """Images and labels without splits, a fifth of each class for testing, and a note."""
    if labels.ndim != 1 or len(labels) != len(images):
        raise DataError(
            f"y: labels of shape {labels.shape} for {len(images)} images; arrays without splits "
            "are images with one label each"
        )
    train, test, note = split_by_class([str(label) for label in labels.tolist()])
    chosen = {"train": train, "test": test}
    return (
        {split: images[index] for split, index in chosen.items()},
        {split: labels[index] for split, index in chosen.items()},
        (note,),
    )


def _convert_labels(array: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    """The classes of images, int64 (N,) from (N,) or (N, 1), or of pixels, uint8 (N, H, W)."""
    if array.ndim == 3 and array.dtype == np.uint8:
        return array
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "iu":
        one_hot = "; of labels that are one-hot, send the argmax" if array.ndim == 2 else ""
        raise DataError(
            f"{name}: labels must be whole numbers of shape (N,), or masks uint8 (N, H, W) in "
            f"which {IGNORED} is ignored; found {array.dtype} {array.shape}{one_hot}"
        )
    if array.size and int(array.max()) >= MAX_CLASSES:
        raise DataError(f"{name}: the largest label is {array.max()}; labels count classes from 0")
    return array.astype(np.int64)


def _name_classes(labels: Named, names: tuple[str, ...]) -> tuple[str, ...]:
    """The names that came with the labels, else the numbers from 0 to the largest label."""
    if labels["test"].ndim == 3:
        count = segmentation.count_classes(labels.values())
    else:
        largest = [int(values.max()) for values in labels.values() if values.size]
        count = max(1 + max(largest, default=0), 1)
    if names and len(names) < count:
        raise DataError(f"{len(names)} class names, but there is a label {count - 1}")
    return names or tuple(map(str, range(count)))
