"""Arrays of images under several shifts, with one array of labels, as CIFAR-10-C comes.

Each array has the same test images under one corruption, all severities one after the other; the
labels are repeated likewise. Free of torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pruning.data.groups import PREFIX, SHIFT
from pruning.errors import DataError

SEVERITIES = 5
"""The number of severities that the published arrays have."""
LABELS = "y"

Named = dict[str, np.ndarray[Any, Any]]


def is_shifted_collection(arrays: Named) -> bool:
    """Whether these are labels beside arrays of images that are named after shifts."""
    others = [name for name in arrays if name != LABELS]
    return (
        LABELS in arrays
        and bool(others)
        and all(name != "x" and arrays[name].ndim == 4 for name in others)
    )


def stack_shifted_arrays(arrays: Named) -> Named:
    """The images as one array `test_x` with `test_y`, and a column that says the shift of each.

    The shift is that of the array's name and, where the labels are repeated for five severities,
    the severity (`fog.3`); of a single array it is the severity alone. Raises `DataError` for
    images that are not as many as the labels.
    """
    labels = arrays[LABELS].reshape(-1)
    names = sorted(name for name in arrays if name != LABELS)
    images, classes, shifts = [], [], []
    for name in names:
        repeated = _repeat_labels(labels, len(arrays[name]), name)
        severities = _number_severities(repeated)
        prefix = name if len(names) > 1 else ""
        images.append(arrays[name])
        classes.append(repeated)
        shifts += [".".join(filter(None, (prefix, severity))) or name for severity in severities]
    shapes = sorted({array.shape[1:] for array in images})
    if len(shapes) > 1:
        raise DataError(f"the arrays {', '.join(names)} have images of several shapes: {shapes}")
    return {
        "test_x": images[0] if len(images) == 1 else np.concatenate(images),
        "test_y": np.concatenate(classes),
        PREFIX + SHIFT: np.array(shifts),
    }


def _repeat_labels(labels: np.ndarray[Any, Any], images: int, name: str) -> np.ndarray[Any, Any]:
    """The labels of an array of images, those of one severity repeated where that is needed."""
    if images == len(labels):
        return labels
    if images == SEVERITIES * len(labels):
        return np.tile(labels, SEVERITIES)
    period = len(labels) // SEVERITIES
    if images == period and _is_repeated(labels):
        return labels[:period]
    raise DataError(f"{name}: {images} images, but {len(labels)} labels")


def _is_repeated(labels: np.ndarray[Any, Any]) -> bool:
    """Whether the labels are one sequence, repeated for each severity."""
    if not len(labels) or len(labels) % SEVERITIES:
        return False
    by_severity = labels.reshape(SEVERITIES, -1)
    return bool((by_severity == by_severity[0]).all())


def _number_severities(labels: np.ndarray[Any, Any]) -> list[str]:
    """The severity of each image, "1" to "5"; "" where the labels are not repeated."""
    if not _is_repeated(labels):
        return [""] * len(labels)
    period = len(labels) // SEVERITIES
    return [str(1 + index // period) for index in range(len(labels))]
