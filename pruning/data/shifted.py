"""Test sets of shifted distributions that the user supplies beside the dataset of a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from pruning.data.arrays import Arrays
from pruning.data.preprocessing import preprocessed_shape
from pruning.data.subsets import draw_subset
from pruning.data.tensors import Data, ShiftedSplits, Split, hold_images, renumber_labels
from pruning.errors import DataError
from pruning.seeding import generator


def check_alike(
    name: str,
    shape: Sequence[int | None],
    *,
    classes: Sequence[str],
    counts: Mapping[str, int],
    own_shape: Sequence[int],
    own_classes: Sequence[str],
    pointer: str | None = None,
) -> None:
    """Raise `DataError` unless a shifted set fits the networks of the dataset.

    `shape`, `classes` and `counts` (images by split) are those of the shifted set, `own_shape` and
    `own_classes` those of the dataset; classes are compared by name, and some may be missing.
    """
    if tuple(shape) != tuple(own_shape):
        raise DataError(
            f"the shifted set {name!r} has images of {_describe_size(shape)}, the dataset of "
            f"{_describe_size(own_shape)}",
            pointer=pointer,
        )
    unknown = [label for label in classes if label not in set(own_classes)]
    if unknown:
        raise DataError(
            f"the shifted set {name!r} has classes that the dataset does not have: "
            f"{_list_first(unknown)}; the dataset has {_list_first(own_classes)}",
            pointer=pointer,
        )
    if not counts.get("val") and counts["test"] < 2:
        raise DataError(
            f"the shifted set {name!r} has 1 image; it needs at least 2, one for "
            "validation and one for test",
            pointer=pointer,
        )


def count_shifted(counts: Mapping[str, int]) -> tuple[int, int]:
    """The numbers of images of a shifted set that decide and that report.

    `counts` are its images by split. Without images in `val`, half of `test` decides.
    """
    test = counts["test"]
    val = counts.get("val", 0)
    if val:
        return val, test
    return test // 2, test - test // 2


def split_shifted(name: str, arrays: Arrays, data: Data, *, seed: int) -> ShiftedSplits:
    """The `val` and `test` images of a shifted set, labels numbered as those of the data.

    Where the set brings no `val`, a seeded half of `test` is set aside for it: choices read `val`,
    reports read `test`. Training images of the set are left alone. Images are resized as those of
    the data are, but for images of one size that have the right one. Raises `DataError` where the
    set does not fit the data (`check_alike`).
    """
    resizing = None if arrays.shape == data.shape else data.resizing
    check_alike(
        name,
        preprocessed_shape(arrays.shape, resizing),
        classes=arrays.classes,
        counts=arrays.counts,
        own_shape=data.shape,
        own_classes=data.classes,
    )
    order = torch.tensor([data.classes.index(label) for label in arrays.classes])
    splits = {
        split: Split(
            hold_images(images, resizing),
            renumber_labels(torch.from_numpy(arrays.labels[split]), order),
        )
        for split, images in arrays.stored.items()
        if split != "train"
    }
    test = splits["test"]
    if "val" in splits:
        return ShiftedSplits(splits["val"].decode(), test.decode())
    rng = generator(seed, "shifted", name)
    chosen, rest = draw_subset(test.labels, len(test) // 2, "proportional", rng)
    return ShiftedSplits(test[chosen].decode(), test[rest].decode())


def _describe_size(shape: Sequence[int | None]) -> str:
    """The size of an image, as people write it.

    >>> _describe_size((3, 24, 32))
    '32x24 pixels and 3 channels'
    """
    channels, height, width = shape
    noun = "channel" if channels == 1 else "channels"
    pixels = "differing sizes" if width is None else f"{width}x{height} pixels"
    return f"{pixels} and {channels} {noun}"


def _list_first(names: Sequence[str], limit: int = 5) -> str:
    """The first names in quotes, and an ellipsis for those beyond the limit.

    >>> _list_first(["cat", "dog", "owl"], limit=2)
    "'cat', 'dog' …"
    """
    listed = ", ".join(map(repr, list(names)[:limit]))
    return f"{listed} …" if len(names) > limit else listed
