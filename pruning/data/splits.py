"""The splits of a dataset as people name them, and what is done where one is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from pruning.errors import DataError

T = TypeVar("T")
SPELLINGS = {
    "train": ("train", "training", "train_set", "training_set"),
    "val": ("val", "valid", "validation", "val_set", "validation_set"),
    "test": ("test", "testing", "test_set", "testing_set"),
}
TEST_FRACTION = 0.2
SEED = 0


def find_split(name: str) -> str | None:
    """The split that a folder is named after; None for another folder.

    >>> find_split("Validation"), find_split("training-set"), find_split("cat")
    ('val', 'train', None)
    """
    spelling = name.lower().replace("-", "_").replace(" ", "_")
    for split, spellings in SPELLINGS.items():
        if spelling in spellings:
            return split
    return None


def replace_missing_test(
    splits: Mapping[str, Sequence[T]],
) -> tuple[dict[str, Sequence[T]], tuple[str, ...]]:
    """The splits, `val` taken for `test` where there is none, and a note that says so."""
    given = {split: values for split, values in splits.items() if len(values)}
    if "test" in given or "val" not in given:
        return given, ()
    given["test"] = given.pop("val")
    note = "there are no test images: those for validation report, as test images"
    if "train" in given:
        note += ", and validation images are drawn from train"
    return given, (note,)


def split_by_class(labels: Sequence[str]) -> tuple[list[int], list[int], str]:
    """The indices of training and of test images, and a note that says how they were drawn.

    A fifth of each class is for testing, at least one image and not all; drawn with a fixed seed.
    Raises `DataError` for a class that has less than two images.
    """
    by_class: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        by_class.setdefault(label, []).append(index)
    single = sorted(label for label, indices in by_class.items() if len(indices) < 2)
    if single:
        raise DataError(
            f"class {single[0]!r} has 1 image, which cannot be both for training and for testing "
            f"({len(single)} such classes): the dataset comes without splits"
        )
    rng = np.random.default_rng(SEED)
    test: list[int] = []
    for label in sorted(by_class):
        indices = by_class[label]
        count = max(1, round(TEST_FRACTION * len(indices)))
        test += [indices[place] for place in rng.permutation(len(indices))[:count].tolist()]
    chosen = set(test)
    train = [index for index in range(len(labels)) if index not in chosen]
    note = (
        f"there are no splits: {len(test)} of {len(labels)} images, a fifth of each class drawn "
        f"with seed {SEED}, were set aside as test"
    )
    return train, sorted(test), note
