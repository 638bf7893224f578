"""Test sets of shifted distributions that the user supplies beside the dataset of a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from pruning.data.arrays import Arrays
from pruning.data.groups import SHIFT
from pruning.data.photos import Photos, Whole
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
    `own_classes` those of the dataset; classes are compared by name, or by number where the set
    has numbers alone (`counts_by_number`), and some may be missing.
    """
    if tuple(shape) != tuple(own_shape):
        raise DataError(
            f"the shifted set {name!r} has images of {_describe_size(shape)}, the dataset of "
            f"{_describe_size(own_shape)}",
            pointer=pointer,
        )
    unknown = [label for label in classes if label not in set(own_classes)]
    if unknown and not counts_by_number(classes, own_classes):
        raise DataError(
            f"the shifted set {name!r} has classes that the dataset does not have: "
            f"{_list_first(unknown)}; the dataset has {_list_first(own_classes)}"
            + _advise_names(own_classes),
            pointer=pointer,
        )
    if not counts.get("val") and counts["test"] < 2:
        raise DataError(
            f"the shifted set {name!r} has 1 image; it needs at least 2, one for "
            "validation and one for test",
            pointer=pointer,
        )


def counts_by_number(classes: Sequence[str], own_classes: Sequence[str]) -> bool:
    """Whether the labels of a shifted set are numbers, and the dataset's classes have other names.

    Then they count in the order of the dataset's classes, as those of CIFAR-10-C do.

    >>> counts_by_number(["0", "1"], ["cat", "dog", "owl"]), counts_by_number(["0"], ["1", "0"])
    (True, False)
    """
    numbers = [str(number) for number in range(len(own_classes))]
    are_numbers = list(classes) == numbers[: len(classes)]
    return are_numbers and not set(classes) <= set(own_classes)


def describe_numbering(
    name: str, classes: Sequence[str], own_classes: Sequence[str]
) -> tuple[str, ...]:
    """A sentence on the labels of a shifted set that count by number; none where names do."""
    if not counts_by_number(classes, own_classes):
        return ()
    return (
        f"the labels of the shifted set {name!r} are numbers, and were read in the order of the "
        f"dataset's classes: 0 is {own_classes[0]!r}",
    )


def count_shifted(
    name: str, counts: Mapping[str, int], groups: Mapping[str, Mapping[str, int]]
) -> dict[str, tuple[int, int]]:
    """The numbers of images that decide and that report, for each distribution of a shifted set.

    `counts` are its images by split, `groups` its test images by column and group. Without images
    in `val`, half of `test` decides.
    """
    parts = groups.get(SHIFT, {})
    if len(parts) > 1:
        return {f"{name}.{part}": (test // 2, test - test // 2) for part, test in parts.items()}
    test = counts["test"]
    val = counts.get("val", 0)
    return {name: (val, test) if val else (test // 2, test - test // 2)}


def split_distributions(
    name: str, arrays: Arrays, data: Data, *, seed: int, decodes: bool = True
) -> dict[str, ShiftedSplits]:
    """The images of each distribution of a shifted set, by its name (`split_shifted`).

    A set with a column `shift` is one distribution for each group of its test images.
    """
    column = arrays.groups.get(SHIFT)
    if column is None or len(column.values) < 2:
        return {name: split_shifted(name, arrays, data, seed=seed, decodes=decodes)}
    distributions = {}
    for code, part in enumerate(column.values):
        subset = _choose_test(arrays, np.flatnonzero(column.codes == code))
        part_name = f"{name}.{part}"
        distributions[part_name] = split_shifted(
            part_name, subset, data, seed=seed, decodes=decodes
        )
    return distributions


def _choose_test(arrays: Arrays, index: Whole) -> Arrays:
    """Some of the test images of a shifted set."""
    labels = {"test": arrays.labels["test"][index]}
    stored = arrays.stored["test"]
    if isinstance(stored, Photos):
        return Arrays({}, labels, arrays.classes, photos={"test": stored.choose(index)})
    return Arrays({"test": stored[index]}, labels, arrays.classes)


def split_shifted(
    name: str, arrays: Arrays, data: Data, *, seed: int, decodes: bool = True
) -> ShiftedSplits:
    """The `val` and `test` images of a shifted set, labels numbered as those of the data.

    Where the set brings no `val`, a seeded half of `test` is set aside for it: choices read `val`,
    reports read `test`. Training images of the set are left alone. Images are resized as those of
    the data are, but for images of one size that have the right one; unless `decodes` is False
    photos are decoded here. Raises `DataError` where the set does not fit the data (`check_alike`).
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
    by_number = counts_by_number(arrays.classes, data.classes)
    order = torch.tensor(
        [
            number if by_number else data.classes.index(label)
            for number, label in enumerate(arrays.classes)
        ]
    )
    splits = {
        split: Split(
            hold_images(images, resizing),
            renumber_labels(torch.from_numpy(arrays.labels[split]), order),
        )
        for split, images in arrays.stored.items()
        if split != "train"
    }
    if "val" in splits:
        val, test = splits["val"], splits["test"]
    else:
        whole = splits["test"]
        rng = generator(seed, "shifted", name)
        chosen, rest = draw_subset(whole.labels, len(whole) // 2, "proportional", rng)
        val, test = whole[chosen], whole[rest]
    return ShiftedSplits(val.decode(), test.decode()) if decodes else ShiftedSplits(val, test)


def _describe_size(shape: Sequence[int | None]) -> str:
    """The size of an image, as people write it.

    >>> _describe_size((3, 24, 32))
    '32x24 pixels and 3 channels'
    """
    channels, height, width = shape
    noun = "channel" if channels == 1 else "channels"
    pixels = "differing sizes" if width is None else f"{width}x{height} pixels"
    return f"{pixels} and {channels} {noun}"


def _advise_names(own_classes: Sequence[str]) -> str:
    """Advice where the dataset's classes have no names, only numbers."""
    if list(own_classes) != [str(number) for number in range(len(own_classes))]:
        return ""
    return ": upload it with `classes`, their names in the order of the labels"


def _list_first(names: Sequence[str], limit: int = 5) -> str:
    """The first names in quotes, and an ellipsis for those beyond the limit.

    >>> _list_first(["cat", "dog", "owl"], limit=2)
    "'cat', 'dog' …"
    """
    listed = ", ".join(map(repr, list(names)[:limit]))
    return f"{listed} …" if len(names) > limit else listed
