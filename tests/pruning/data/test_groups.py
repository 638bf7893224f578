"""Columns of groups of the test images, in every layout, and those that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save as save_numpy

from pruning.data.arrays import Arrays
from pruning.data.groups import MOST_COLUMNS, MOST_VALUES
from pruning.data.tensors import prepare
from pruning.errors import DataError
from pruning.schemas.recipe import Limit
from tests.support.uploaded_files import arrays, folder, npz, read, zipped


def tell_values(dataset: Arrays, column: str) -> list[str | None]:
    """The value of each test image, None where it is in no group."""
    groups = dataset.groups[column]
    return [None if code < 0 else groups.values[code] for code in groups.codes.tolist()]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array(["sun", "rain"]), ["sun", "rain"]),
        (np.array([b"sun", b""]), ["sun", None]),
        (np.array([10, 9], np.uint8), ["10", "9"]),
        (np.array([True, False]), ["true", "false"]),
    ],
)
def test_columns_of_arrays(tmp_path: Path, values: Any, expected: list[str | None]) -> None:
    dataset = read(npz(arrays(test_group_weather=values)), tmp_path)
    assert list(dataset.groups) == ["weather"]
    assert tell_values(dataset, "weather") == expected
    path = tmp_path / "stored.safetensors"
    dataset.save(path)
    again = Arrays.load(path)
    assert tell_values(again, "weather") == expected
    assert again.groups["weather"].counts() == dataset.groups["weather"].counts()


def test_whole_numbers_are_in_their_own_order(tmp_path: Path) -> None:
    dataset = read(npz(arrays(test_group_age=np.array([10, 9]))), tmp_path)
    assert dataset.groups["age"].values == ("9", "10")


def test_columns_of_safetensors(tmp_path: Path) -> None:
    dataset = read(save_numpy(arrays(test_group_age=np.array([3, 4]))), tmp_path)
    assert tell_values(dataset, "age") == ["3", "4"]


def test_columns_of_a_folder(tmp_path: Path) -> None:
    table = (
        "\ufeffpath,sex,age\ntest/b/1.png,f,\ntrain/a/1.png,m,3\n"
        'test/a/1.png,"m, or f",70\n'.encode()
    )
    dataset = read(zipped(folder(groups_dot_csv=table)), tmp_path)
    assert dataset.counts == {"train": 4, "val": 0, "test": 2}
    assert tell_values(dataset, "sex") == ["m, or f", "f"]
    assert tell_values(dataset, "age") == ["70", None]
    assert dataset.groups["sex"].counts() == {"f": 1, "m, or f": 1}


def test_without_columns_there_are_no_groups(tmp_path: Path) -> None:
    assert read(npz(arrays()), tmp_path).groups == {}
    assert read(zipped(folder()), tmp_path).groups == {}


def test_clusters_are_told_by_their_number(tmp_path: Path) -> None:
    dataset = read(npz(arrays(test_group_cluster=np.array(["a", "a"]))), tmp_path)
    assert dataset.group_counts() == {}
    assert any("cluster: 2 test images in 1 cluster" in note for note in dataset.notes)


def many(count: int) -> dict[str, Any]:
    return {f"test_group_g{index}": np.array([0, 1]) for index in range(count)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_group_a": np.array([0, 1, 2])}, "test_group_a: 3 values for 2 test images"),
        ({"test_group_a": np.zeros((2, 1), int)}, "test_group_a: .*shape"),
        ({"test_group_a": np.array([0.5, 1.0])}, "test_group_a: .*text, whole numbers"),
        ({"test_group_": np.array([0, 1])}, "test_group_: .*name"),
        ({"test_group_class": np.array([0, 1])}, "'class'.*taken"),
        ({"test_group_a b": np.array([0, 1])}, "'a b'.*letters"),
        ({"train_group_a": np.array([0, 1, 0, 1])}, "train_group_a: .*test_group_a"),
        ({"test_group_a": np.array(["", ""])}, "test_group_a: .*no image"),
        ({"test_group_a": np.array(["x" * 101, ""])}, "test_group_a: .*at most 100 characters"),
        (many(MOST_COLUMNS + 1), f"at most {MOST_COLUMNS} columns"),
    ],
)
def test_bad_columns_of_arrays_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(npz(arrays(**changes)), tmp_path)


def test_an_identifier_is_no_group_but_may_be_a_cluster(tmp_path: Path) -> None:
    n = MOST_VALUES + 1
    images = np.zeros((n, 1, 2, 2), np.uint8)
    content = {"test_x": images, "test_y": np.arange(n) % 2}
    with pytest.raises(DataError, match=rf"test_group_id: {n} different values"):
        read(npz(arrays(**content, test_group_id=np.arange(n))), tmp_path)
    dataset = read(npz(arrays(**content, test_group_cluster=np.arange(n))), tmp_path)
    assert len(dataset.groups["cluster"].values) == n


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"", "groups.csv is empty"),
        (b"file,sex\ntest/a/1.png,f\n", "groups.csv: the first column must be 'path'"),
        (b"path\ntest/a/1.png\n", "groups.csv: .*no column beside 'path'"),
        (b"path,sex,sex\ntest/a/1.png,f,f\n", "groups.csv: .*'sex' twice"),
        (b"path,sex\ntest/a/1.png,f\ntest/b/2.png,m\n", "line 3: .*'test/b/2.png'"),
        (b"path,sex\ntest/a/1.png,f\ntest/a/1.png,m\n", "line 3: .*'test/a/1.png' again"),
        (b"path,sex\ntest/a/1.png,f,x\n", "line 2: 3 cells"),
        (b"path,sex\ntest/a/1.png,f\n", "no row for the test image 'test/b/1.png'"),
        (b"path,sex\ntest/a/1.png,\xff\xfe\n", "groups.csv: not UTF-8"),
        (b"path,s-x\ntest/a/1.png,f\ntest/b/1.png,f\n", "'s-x'.*letters"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, table: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(zipped(folder(groups_dot_csv=table)), tmp_path)


def test_groups_and_indices_follow_the_images_through_a_limit(tmp_path: Path) -> None:
    n = 40
    rng = np.random.default_rng(0)
    content = arrays(
        test_x=rng.integers(0, 256, (n, 1, 2, 2), dtype=np.uint8),
        test_y=np.arange(n) % 2,
        test_group_parity=np.arange(n) % 4,
    )
    dataset = read(npz(content), tmp_path)
    data = prepare(
        dataset,
        limit=Limit(test=10),
        seed=0,
        normalize={"mean": [0.5], "std": [0.5]},
        classes=["1", "0"],
    )
    indices = data.test.dataset_indices
    assert len(indices) == 10
    assert len(set(indices.tolist())) == 10
    images = torch.from_numpy(content["test_x"])
    assert (data.test.images == images[indices]).all()
    assert data.test_groups("parity").tolist() == (indices % 4).tolist()
