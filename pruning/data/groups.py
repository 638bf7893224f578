"""Groups of the test images: columns beside the labels, by which errors are told.

A column names a group of each image: `sex`, `weather`, `camera`. The column `cluster` is not one
of groups: it names the images that belong together, as copies, near-duplicates or frames of one
film do, and that count once in a test. Free of torch.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pruning.errors import DataError

CLUSTER = "cluster"
"""The name of the column of images that belong together."""
SHIFT = "shift"
"""The name of the column that says of images of shifted distributions which it is."""
PREFIX = "test_group_"
"""The first part of the name of an array that is a column."""
TABLE = "groups.csv"
"""The file of a zip of images that holds the columns."""
MOST_COLUMNS = 20
MOST_VALUES = 200
MOST_CHARACTERS = 100
MOST_TABLE_BYTES = 64 * 2**20
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
TAKEN = ("class", "path")
"""Names that a table of the report or of the upload has already."""


@dataclass(frozen=True)
class GroupColumn:
    """A column: the group of each test image."""

    values: tuple[str, ...]
    """The names of the groups, in order."""
    codes: np.ndarray[Any, np.dtype[np.int32]]
    """int32 (test images,): the index of each image's group, -1 where it is in none."""

    def counts(self) -> dict[str, int]:
        """The number of test images of each group."""
        counts = np.bincount(self.codes[self.codes >= 0], minlength=len(self.values))
        return dict(zip(self.values, counts.tolist(), strict=True))


def name_column(array_name: str) -> str | None:
    """The column that an array holds by its name; None for another array.

    Raises `DataError` for a column of another split: errors are told of test images alone.

    >>> name_column("test_group_sex"), name_column("test_x")
    ('sex', None)
    """
    split, separator, column = array_name.partition("_group_")
    if not separator:
        return None
    if split != "test":
        raise DataError(
            f"{array_name}: groups are those of test images; the array of a column is named "
            f"{PREFIX}{column}"
        )
    return column


def read_columns(arrays: Mapping[str, np.ndarray[Any, Any]], images: int) -> dict[str, GroupColumn]:
    """The columns of arrays by name of the column, for this number of test images.

    Raises `DataError` for one that does not fit.
    """
    _check_names(list(arrays))
    return {
        column: _encode_values(_list_values(array, PREFIX + column), PREFIX + column, images)
        for column, array in arrays.items()
    }


def read_table(
    archive: zipfile.ZipFile,
    paths: Mapping[str, bool],
    clean_path: Callable[[str], str] = lambda path: path,
) -> dict[str, GroupColumn]:
    """The columns of the table in a zip of images; none without a table.

    `paths` are all images of the zip, in the order of the dataset, and whether each is a test
    image; `clean_path` gives the path of one that the table names. The table has a row for each
    test image, and may have some for others, which are not read. Raises `DataError` for one that
    does not fit.
    """
    if TABLE not in archive.namelist():
        return {}
    head, rows = _parse_table(archive)
    _check_names(head[1:])
    by_path: dict[str, Sequence[str]] = {}
    for line, row in enumerate(rows, 2):
        if not row:
            continue
        if len(row) != len(head):
            raise DataError(f"{TABLE}, line {line}: {len(row)} cells below {len(head)} columns")
        path = clean_path(row[0])
        if path not in paths:
            raise DataError(f"{TABLE}, line {line}: the zip holds no image {row[0]!r}")
        if path in by_path:
            raise DataError(f"{TABLE}, line {line}: {row[0]!r} again")
        by_path[path] = row
    test_paths = [path for path, is_test in paths.items() if is_test]
    missing = [path for path in test_paths if path not in by_path]
    if missing:
        raise DataError(f"{TABLE}: no row for the test image {missing[0]!r}")
    return {
        column: _encode_values(
            [by_path[path][place] for path in test_paths], f"{TABLE}, {column}", len(test_paths)
        )
        for place, column in enumerate(head[1:], 1)
    }


def describe_clusters(groups: Mapping[str, GroupColumn]) -> tuple[str, ...]:
    """A sentence on the column of clusters; none without it."""
    if CLUSTER not in groups:
        return ()
    codes = groups[CLUSTER].codes
    clusters = len(groups[CLUSTER].values)
    noun = "cluster" if clusters == 1 else "clusters"
    return (
        f"cluster: {int((codes >= 0).sum())} test images in {clusters} {noun}; images of a cluster "
        "count once in tests by class and group",
    )


def _parse_table(archive: zipfile.ZipFile) -> tuple[list[str], list[list[str]]]:
    """The first row of the table and the others."""
    if archive.getinfo(TABLE).file_size > MOST_TABLE_BYTES:
        raise DataError(f"{TABLE}: more than {MOST_TABLE_BYTES} bytes")
    try:
        text = archive.read(TABLE).decode("utf-8-sig")
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except UnicodeDecodeError as error:
        raise DataError(f"{TABLE}: not UTF-8 ({error})") from None
    except (csv.Error, zipfile.BadZipFile, OSError, RuntimeError) as error:
        raise DataError(f"{TABLE}: not a readable table ({error})") from None
    if not rows or not rows[0]:
        raise DataError(f"{TABLE} is empty; expected a row of names: path, and the columns")
    head = rows[0]
    if head[0] != "path":
        raise DataError(f"{TABLE}: the first column must be 'path', found {head[0]!r}")
    if len(head) == 1:
        raise DataError(f"{TABLE}: there is no column beside 'path'")
    repeated = [name for name in head if head.count(name) > 1]
    if repeated:
        raise DataError(f"{TABLE}: there is a column {repeated[0]!r} twice")
    return head, rows[1:]


def _check_names(names: Sequence[str]) -> None:
    """Raise `DataError` for too many columns, or for a name that no column may have."""
    if len(names) > MOST_COLUMNS:
        raise DataError(f"{len(names)} columns of groups; at most {MOST_COLUMNS} columns are read")
    for name in names:
        if not name:
            raise DataError(f"{PREFIX}: a column needs a name, as in {PREFIX}weather")
        if name in TAKEN:
            raise DataError(f"groups: the name {name!r} of a column is taken; choose another")
        if not NAME.fullmatch(name):
            raise DataError(
                f"groups: the column {name!r}: a name is a letter, then letters, digits and _, "
                "at most 40 in all"
            )


def _list_values(array: np.ndarray[Any, Any], label: str) -> list[Any]:
    """The values of an array as text or whole numbers."""
    if array.ndim != 1 or array.dtype.kind not in "USiub":
        raise DataError(
            f"{label}: a column is text, whole numbers or booleans of shape (images,); found "
            f"{array.dtype} of shape {array.shape}"
        )
    if array.dtype.kind == "b":
        return ["true" if value else "false" for value in array.tolist()]
    values: list[Any] = array.tolist()
    if array.dtype.kind != "S":
        return values
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError as error:
        raise DataError(f"{label}: not UTF-8 ({error})") from None


def _encode_values(values: Sequence[Any], label: str, images: int) -> GroupColumn:
    """The column of these values; an empty text is no group."""
    if len(values) != images:
        raise DataError(f"{label}: {len(values)} values for {images} test images")
    names = sorted({value for value in values if value != ""})
    if not names:
        raise DataError(f"{label}: no image is in a group")
    if len(names) > MOST_VALUES and not label.endswith((PREFIX + CLUSTER, f", {CLUSTER}")):
        raise DataError(
            f"{label}: {len(names)} different values; a column has at most {MOST_VALUES} groups, "
            f"unless it is {CLUSTER!r}, which names images that belong together"
        )
    texts = tuple(str(name) for name in names)
    if max(map(len, texts)) > MOST_CHARACTERS:
        raise DataError(f"{label}: the name of a group has at most {MOST_CHARACTERS} characters")
    number = {name: code for code, name in enumerate(names)}
    codes = np.array([number.get(value, -1) for value in values], np.int32)
    return GroupColumn(texts, codes)
