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
        """The images."""


datasets: Registry[Builtin] = Registry("dataset", None)


@datasets.register("digits")
@dataclass(frozen=True)
class Digits:
    """1,797 handwritten digits, 8x8 grey (UCI, bundled with scikit-learn): the last 397 are the
    test split.
    """

    def load(self) -> Arrays:
        """Grey values 0..16 scaled to 0..255; train the first 1,400 images, test the last 397."""
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
    """Shape, classes, counts and task of a dataset: `known` of an uploaded one, else those of the
    bundled one.
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
    }
