"""The names of the classes that come beside images: a text in a zip, or an array. Free of torch."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pruning.errors import DataError
from pruning.schemas.unicode_names import compose

CLASSES = "classes.txt"
"""The file that has the names of the classes, one a line, in the order of the labels."""
ARRAYS = ("classes", "class_names", "label_names")
"""The names of an array of class names, or of such metadata of a safetensors file."""
MAX_CLASSES = 100_000
MOST_TEXT_BYTES = 16 * 2**20


def read_names(archive: zipfile.ZipFile, most: int) -> tuple[str, ...]:
    """The names in the text of a zip, one on each line; none without the text.

    Raises `DataError` unless they are 2 to `most`, and all different.
    """
    if CLASSES not in archive.namelist():
        return ()
    if archive.getinfo(CLASSES).file_size > MOST_TEXT_BYTES:
        raise DataError(f"{CLASSES}: more than {MOST_TEXT_BYTES} bytes")
    try:
        lines = archive.read(CLASSES).decode("utf-8-sig").splitlines()
    except Exception as error:  # broken archives fail in many ways
        raise DataError(f"{CLASSES}: not a readable text ({str(error)[:200]})") from None
    names = tuple(compose(line.strip()) for line in lines if line.strip())
    if len(set(names)) < len(names) or not 2 <= len(names) <= most:
        raise DataError(
            f"{CLASSES}: {len(names)} names, {len(set(names))} of them different; expected 2 to "
            f"{most}, one on each line, the first that of value 0"
        )
    return names


def take_names(arrays: dict[str, np.ndarray[Any, Any]]) -> tuple[str, ...]:
    """Remove the array of class names from the others, and return the names; none without it."""
    present = [name for name in ARRAYS if name in arrays]
    if not present:
        return ()
    if len(present) > 1:
        raise DataError(f"class names come once, in one of the arrays {', '.join(present)}")
    array = arrays.pop(present[0])
    if array.ndim != 1 or array.dtype.kind not in "US":
        raise DataError(
            f"{present[0]}: class names are text of shape (classes,), found {array.dtype} of shape "
            f"{array.shape}"
        )
    values = array.tolist()
    if array.dtype.kind == "S":
        values = [value.decode("utf-8", "replace") for value in values]
    return check_names(values, present[0])


def parse_metadata(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The class names in the metadata of a safetensors file, a JSON list; none without it."""
    for name in ARRAYS:
        if name not in metadata:
            continue
        try:
            values = json.loads(metadata[name])
        except ValueError:
            values = None
        if not isinstance(values, list):
            raise DataError(f"metadata {name}: expected a JSON list of class names")
        return check_names(values, name)
    return ()


def check_names(values: Sequence[Any], source: str) -> tuple[str, ...]:
    """The names as a tuple; `DataError` unless all are texts, and different."""
    odd = [value for value in values if not isinstance(value, str) or not value.strip()]
    if odd:
        raise DataError(f"{source}: {odd[0]!r} is not the name of a class")
    names = tuple(map(compose, values))
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise DataError(f"{source}: there is a class {repeated[0]!r} twice")
    return names
