"""Parquet files of images and labels, as Hugging Face's datasets are stored. Free of torch.

Their images are unpacked into a zip of class folders, which is then read as any other.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pruning.data.archives import is_document, list_names
from pruning.data.class_names import CLASSES, MAX_CLASSES, check_names
from pruning.data.images import SUFFIXES
from pruning.data.splits import find_split
from pruning.errors import DataError

SIGNATURE = b"PAR1"
SUFFIX = ".parquet"
BATCH_ROWS = 64
SHARD = re.compile(r"-\d+(-of-\d+)?$")
"""The end of the name of a shard, as in `train-00000-of-00002`."""
NAMES_OF_LABELS = ("label", "labels")
NAMES_OF_IMAGES = ("image", "img")
HIDDEN = -1
"""The label of test images whose labels were not published."""


@dataclass(frozen=True, kw_only=True)
class _Shard:
    """A Parquet file: its split, its columns, its labels, and the names of the classes if any."""

    name: str
    path: Path
    split: str | None
    image: str
    label: str
    labels: Sequence[Any]
    names: tuple[str, ...]


def holds_parquet(archive: zipfile.ZipFile) -> bool:
    """Whether the zip holds Parquet files, beside texts alone."""
    names = archive.namelist()
    are_parquet = [name.lower().endswith(SUFFIX) for name in names]
    return any(are_parquet) and all(
        here or is_document(name) for name, here in zip(names, are_parquet, strict=True)
    )


def unpack_parquet(archive: zipfile.ZipFile, folder: Path) -> dict[str, Path]:
    """The Parquet files of a zip by name, copied into the folder, where they can be searched."""
    files = {}
    for index, name in enumerate(sorted(archive.namelist())):
        if not name.lower().endswith(SUFFIX):
            continue
        files[name] = folder / f"{index}{SUFFIX}"
        try:
            with archive.open(name) as source, files[name].open("wb") as target:
                shutil.copyfileobj(source, target)
        except Exception as error:  # broken archives fail in many ways
            raise DataError(f"{name}: {type(error).__name__}: {str(error)[:200]}") from None
    return files


def write_class_folders(files: Mapping[str, Path], target: Path, max_bytes: int) -> tuple[str, ...]:
    """Write the images of Parquet files into a zip `<split>/<number of the class>/<image>`.

    `files` are by their names, which say the split, as those of Hugging Face do. Returns notes on
    how they were read. Raises `DataError` for files that do not fit, for images of more than
    `max_bytes` together, and where pyarrow is missing.
    """
    shards, notes = _choose_splits([_read_shard(name, files[name]) for name in sorted(files)])
    classes = _name_classes(shards)
    number = {label: index for index, label in enumerate(classes)}
    written = 0
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(CLASSES, "".join(f"{label}\n" for label in classes))
        for shard_number, shard in enumerate(shards):
            stem = re.sub(r"[^\w-]", "_", PurePosixPath(shard.name).stem)
            for row, (content, path) in enumerate(_iterate_images(shard)):
                label = shard.labels[row]
                index = number[label] if isinstance(label, str) else label
                image = f"{shard_number:04}-{stem}-row{row:08}{_find_suffix(content, path)}"
                name = f"{index:06}/{image}"
                written += len(content)
                if written > max_bytes:
                    raise DataError(f"the images have more than {max_bytes} bytes")
                archive.writestr(f"{shard.split}/{name}" if shard.split else name, content)
    return notes


def _read_shard(name: str, path: Path) -> _Shard:
    """The columns and labels of a file; `DataError` where it has not the ones that are needed."""
    with _open_table(name, path) as table:
        schema = table.schema_arrow
        features = _read_features(schema.metadata or {})
        image = _find_column(name, schema, features, "Image", NAMES_OF_IMAGES)
        label = _find_column(name, schema, features, "ClassLabel", NAMES_OF_LABELS)
        labels = table.read(columns=[label], use_threads=False).column(0).to_pylist()
    names = features.get(label, {}).get("names") or ()
    odd = next((value for value in labels if type(value) not in (int, str)), "")
    if odd != "":
        raise DataError(f"{name}: a label in the column {label!r} is {odd!r}")
    return _Shard(
        name=name,
        path=path,
        split=_find_file_split(name),
        image=image,
        label=label,
        labels=labels,
        names=check_names(names, f"{name}, {label}") if names else (),
    )


def _choose_splits(shards: Sequence[_Shard]) -> tuple[list[_Shard], tuple[str, ...]]:
    """The files that are read: those of splits, where some are, whose labels were published."""
    notes = []
    chosen = [shard for shard in shards if shard.split is not None] or list(shards)
    others = [shard.name for shard in shards if shard not in chosen]
    if others:
        notes.append(f"passed over, of no split: {list_names(others)}")
    hidden = [shard.name for shard in chosen if set(shard.labels) == {HIDDEN}]
    if hidden:
        notes.append(f"passed over, as all labels are {HIDDEN}: {list_names(hidden)}")
    chosen = [shard for shard in chosen if shard.name not in hidden]
    if not chosen:
        raise DataError("there are no labels in the Parquet files")
    return chosen, tuple(notes)


def _name_classes(shards: Sequence[_Shard]) -> tuple[str, ...]:
    """The names in the metadata, else the labels that are texts, else the numbers."""
    names = {shard.names for shard in shards}
    labels = {label for shard in shards for label in shard.labels}
    if len(names) > 1:
        raise DataError("the Parquet files do not name the same classes")
    (classes,) = names
    if not classes and all(isinstance(label, str) for label in labels):
        return check_names(sorted(labels), "labels")
    numbers = [label for label in labels if isinstance(label, int)]
    count = len(classes) or min(max(numbers) + 1, MAX_CLASSES)
    if len(numbers) < len(labels) or min(numbers) < 0 or max(numbers) >= count:
        raise DataError(f"labels from {min(numbers)} to {max(numbers)}, but {count} classes")
    return classes or tuple(map(str, range(count)))


def _iterate_images(shard: _Shard) -> Iterator[tuple[bytes, str]]:
    """The bytes of each image and its path, as far as it has one."""
    with _open_table(shard.name, shard.path) as table:
        batches = table.iter_batches(BATCH_ROWS, columns=[shard.image], use_threads=False)
        row = 0
        for batch in batches:
            for value in batch.column(0).to_pylist():
                image = value if isinstance(value, dict) else {"bytes": value}
                content = image.get("bytes")
                if not isinstance(content, bytes):
                    raise DataError(
                        f"{shard.name}: row {row} has no bytes of an image in {shard.image!r}; "
                        "save the dataset with its images embedded"
                    )
                yield content, str(image.get("path") or "")
                row += 1


def _find_column(
    name: str, schema: Any, features: Mapping[str, Any], feature: str, usual: Sequence[str]
) -> str:
    """The column of images or of labels: by its feature and then by its name."""
    columns = [column for column in schema.names if _is_feature(features, column, feature)]
    columns = columns or [column for column in usual if column in schema.names]
    preferred = [column for column in columns if column in usual]
    if len(columns) == 1 or preferred:
        return str((preferred or columns)[0])
    problem = "several columns" if columns else "no column"
    raise DataError(
        f"{name}: {problem} of {feature} among {list_names(schema.names)}; expected one, or one "
        f"called {usual[0]!r}"
    )


def _is_feature(features: Mapping[str, Any], column: str, feature: str) -> bool:
    described = features.get(column)
    return isinstance(described, dict) and described.get("_type") == feature


def _read_features(metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    """The features that the library `datasets` describes in the metadata, as far as it does."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _find_file_split(name: str) -> str | None:
    """The split of a file by its name, or by that of its folder.

    >>> [_find_file_split(name) for name in ("data/train-00000-of-00002.parquet", "Test/0.parquet")]
    ['train', 'test']
    """
    path = PurePosixPath(name)
    candidates = (SHARD.sub("", path.stem), path.parent.name)
    return next((split for word in candidates if (split := find_split(word)) is not None), None)


def _find_suffix(content: bytes, path: str) -> str:
    """The suffix of an image's file: that of its path, else by its first bytes."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in SUFFIXES:
        return suffix
    return ".jpg" if content.startswith(b"\xff\xd8") else ".png"


@contextmanager
def _open_table(name: str, path: Path) -> Iterator[Any]:
    """Open a Parquet file; whatever is wrong with it raises a `DataError`."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataError(
            "Parquet is read with pyarrow, which is not installed here: install secateur[parquet]"
        ) from None
    try:
        with ParquetFile(path) as table:
            yield table
    except DataError:
        raise
    except (ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{name}: not readable Parquet ({str(error)[:200]})") from None
