"""Test sets of shifted distributions that the user supplies beside the dataset of a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from pruning.data.arrays import Arrays
from pruning.data.tensors import Data, ShiftedSplits, Split, draw_subset, renumber_labels
from pruning.errors import DataError
from pruning.seeding import generator


def check_alike(
    name: str,
    shape: Sequence[int],
    *,
    classes: Sequence[str],
    counts: Mapping[str, int],
    own_shape: Sequence[int],
    own_classes: Sequence[str],
    pointer: str | None = None,
) -> None:
    """Raise `DataError` unless images of this shape and these classes can be shown to a network of
    the dataset.

    `shape`, `classes` and `counts` (images by split) are those of the shifted set, `own_shape` and
    `own_classes` those of the dataset; classes are compared by name, and some may be missing.
    """
    if tuple(shape) != tuple(own_shape):
        raise DataError(
            f"the shifted set {name!r} has images of {_size(shape)}, the dataset of "
            f"{_size(own_shape)}",
            pointer=pointer,
        )
    strange = [one for one in classes if one not in set(own_classes)]
    if strange:
        raise DataError(
            f"the shifted set {name!r} has classes that the dataset has not: "
            f"{', '.join(map(repr, strange[:5]))}"
            f"{' …' if len(strange) > 5 else ''}; the dataset has "
            f"{', '.join(map(repr, list(own_classes)[:5]))}{' …' if len(own_classes) > 5 else ''}",
            pointer=pointer,
        )
    if not counts.get("val") and counts["test"] < 2:
        raise DataError(
            f"the shifted set {name!r} has 1 image: one decides and one reports, at the least",
            pointer=pointer,
        )


def count_shifted(counts: Mapping[str, int]) -> tuple[int, int]:
    """How many images of a shifted set decide and report, of so many by split: those of `val`, or
    half of `test`.
    """
    val = counts.get("val") or counts["test"] // 2
    return val, counts["test"] if counts.get("val") else counts["test"] - val


def split_shifted(name: str, arrays: Arrays, data: Data, *, seed: int) -> ShiftedSplits:
    """The `val` and `test` images of a shifted set, labels numbered as those of the data.

    Where the set brings no `val`, a seeded half of `test` is set aside as that: what is chosen
    reads `val`, what is reported reads `test`. Training images of the set are left alone. Raises as
    `check_alike` does.
    """
    check_alike(
        name,
        arrays.shape,
        classes=arrays.classes,
        counts=arrays.counts,
        own_shape=data.shape,
        own_classes=data.classes,
    )
    order = torch.tensor([data.classes.index(label) for label in arrays.classes])
    found = {
        split: Split(
            torch.from_numpy(arrays.images[split]),
            renumber_labels(torch.from_numpy(arrays.labels[split]), order),
        )
        for split in ("val", "test")
        if split in arrays.images
    }
    if "val" not in found:
        test = found["test"]
        chosen, rest = draw_subset(
            test.labels, len(test) // 2, True, generator(seed, "shifted", name)
        )
        return ShiftedSplits(test[chosen], test[rest])
    return ShiftedSplits(found["val"], found["test"])


def _size(shape: Sequence[int]) -> str:
    """Of an image, as people write it.

    >>> _size((3, 24, 32))
    '32x24 pixels and 3 channels'
    """
    channels, height, width = shape
    return f"{width}x{height} pixels and {channels} channel{'s' * (channels != 1)}"
