"""Datasets that come with the service. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pruning.data.arrays import Arrays
from pruning.registry import Registry


class Builtin(Protocol):
    """A bundled dataset."""

    def load(self) -> Arrays:
        """The images and labels of the dataset."""


datasets: Registry[Builtin] = Registry("dataset", None)


@datasets.register("digits")
@dataclass(frozen=True)
class Digits:
    """1,797 handwritten digits, 8x8 grey (UCI, bundled with scikit-learn); 397 of them test."""

    def load(self) -> Arrays:
        """The first 1,400 images to train, the last 397 to test, grey values 0..16 as 0..255."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)[:, None]
        labels = digits.target.astype(np.int64)
        return Arrays(
            {"train": images[:1400], "test": images[1400:]},
            {"train": labels[:1400], "test": labels[1400:]},
            tuple(map(str, range(10))),
        )


def describe_dataset(builtin: str | None, known: Mapping[str, Any] | None) -> dict[str, Any]:
    """The shape, classes, counts and task of a dataset.

    They are `known` for an uploaded dataset, and read from the bundled one otherwise.
    """
    if known is not None:
        return dict(known)
    assert builtin is not None
    arrays = datasets.create(builtin).load()
    return {
        "classes": list(arrays.classes),
        "shape": list(arrays.shape),
        "counts": arrays.counts,
        "task": arrays.task,
        "guessing_error": arrays.guessing_error,
    }
