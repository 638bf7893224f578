"""Parquet files of images and labels, as Hugging Face's datasets are stored."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pruning.errors import DataError
from tests.support.uploaded_files import encoded, picture, read, zipped

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

FEATURES = {
    "image": {"_type": "Image"},
    "label": {"_type": "ClassLabel", "names": ["cat", "dog/fox"]},
}


def table(
    labels: list[Any],
    *,
    features: dict[str, Any] | None = FEATURES,
    columns: tuple[str, str] = ("image", "label"),
    seed: int = 0,
    images: list[Any] | None = None,
) -> bytes:
    """Write a Parquet file of images with these labels."""
    drawn = [
        {"bytes": encoded(picture(seed + index)), "path": f"{index}.png"}
        for index in range(len(labels))
    ]
    content = pyarrow.table(dict(zip(columns, (images or drawn, labels), strict=True)))
    if features is not None:
        about = json.dumps({"info": {"features": features}})
        content = content.replace_schema_metadata({"huggingface": about})
    target = io.BytesIO()
    parquet.write_table(content, target)
    return target.getvalue()


@pytest.mark.parametrize("root", ["data/", "pets/data/", "pets/default/", ""])
def test_a_folder_of_the_hub(tmp_path: Path, root: str) -> None:
    files = {
        f"{root}train-00000-of-00002.parquet": table([0, 1]),
        f"{root}train-00001-of-00002.parquet": table([1, 0], seed=2),
        f"{root}test-00000-of-00001.parquet": table([1, 0], seed=4),
        "README.md": b"# pets",
        ".gitattributes": b"x",
    }
    dataset = read(zipped(files), tmp_path)
    assert dataset.classes == ("cat", "dog/fox")
    assert dataset.counts == {"train": 4, "val": 0, "test": 2}
    assert dataset.labels["train"].tolist() == [0, 0, 1, 1]
    expected = [picture(seed).transpose(2, 0, 1) for seed in (0, 3, 1, 2)]
    assert (dataset.images["train"] == np.stack(expected)).all()
    assert dataset.notes == ()


def test_splits_are_folders_too_and_validation_reports(tmp_path: Path) -> None:
    files = {
        "train/0000.parquet": table([0, 1]),
        "validation/0000.parquet": table([1, 0], seed=2),
        "test/0000.parquet": table([-1, -1], seed=4),
        "extra/0000.parquet": table([0, 1]),
    }
    dataset = read(zipped(files), tmp_path)
    assert dataset.counts == {"train": 2, "val": 0, "test": 2}
    extra, hidden, validation = dataset.notes
    assert extra == "passed over, of no split: 'extra/0000.parquet'"
    assert hidden == "passed over, as all labels are -1: 'test/0000.parquet'"
    assert "those for validation report" in validation


def test_one_file_without_splits_names_or_structs(tmp_path: Path) -> None:
    """Bytes and texts as columns of other libraries; a fifth of each class is drawn."""
    images = [encoded(picture(seed)) for seed in range(4)]
    content = table(["owl", "bat", "bat", "owl"], features=None, images=images)
    dataset = read(content, tmp_path)
    assert dataset.classes == ("bat", "owl")
    assert dataset.counts == {"train": 2, "val": 0, "test": 2}
    numbered = read(table([0, 1, 1, 0], features=None), tmp_path)
    assert numbered.classes == ("0", "1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (table([0, 1, 2, 1]), "labels from 0 to 2, but 2 classes"),
        (table([0, None, 0, 1]), "a label in the column 'label' is None"),
        (table([0, 1], columns=("photo", "label"), features=None), "no column of Image among"),
        (table([0, 1], images=[{"bytes": None, "path": "a.png"}] * 2), "row 0 has no bytes"),
        (table([0, 1])[:-9] + b"x" * 9, "not readable Parquet"),
        (
            table([0, 0, 1, 1], images=[{"bytes": b"x", "path": "a.png"}] * 4),
            r"4 files cannot be used: 00000\d/0000-upload-row0000000\d.png: not a readable image",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(content, tmp_path)


def test_without_pyarrow_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = table([0, 1])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"install secateur\[parquet\]"):
        read(content, tmp_path)
