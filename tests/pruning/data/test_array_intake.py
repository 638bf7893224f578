"""Arrays as people have them: names, class names, grey levels, labels, shifted collections."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save as save_numpy

from pruning.data import uploads
from pruning.data.archives import open_archive
from pruning.errors import DataError
from tests.support.uploaded_files import MOST, Array, arrays, npz, read, zipped

LEVELS = np.arange(4 * 12, dtype=np.uint8).reshape(4, 3, 2, 2) * 5


def refused(content: bytes, tmp_path: Path) -> str:
    """Read arrays that are refused; return the message."""
    with pytest.raises(DataError) as caught:
        read(content, tmp_path)
    return caught.value.message


@pytest.mark.parametrize(
    "names",
    [
        "x_train y_train x_test y_test",
        "X_train y_train X_test y_test",
        "train_images train_labels test_images test_labels",
        "training_data training_targets testing_data testing_targets",
    ],
)
def test_arrays_are_known_by_their_usual_names(tmp_path: Path, names: str) -> None:
    content = arrays()
    ordered = [content[key] for key in ("train_x", "train_y", "test_x", "test_y")]
    dataset = read(npz(dict(zip(names.split(), ordered, strict=True))), tmp_path)
    assert (dataset.images["train"] == content["train_x"]).all()
    assert dataset.labels["test"].tolist() == content["test_y"].tolist()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "uint64"])
def test_labels_of_any_whole_type_in_a_column(tmp_path: Path, dtype: str) -> None:
    column = np.array([[0], [1], [0], [1]], dtype)
    dataset = read(npz(arrays(train_y=column)), tmp_path)
    assert dataset.labels["train"].tolist() == [0, 1, 0, 1]
    assert dataset.labels["train"].dtype == np.int64


@pytest.mark.parametrize("key", ["classes", "class_names", "label_names"])
def test_arrays_with_class_names(tmp_path: Path, key: str) -> None:
    named: dict[str, Any] = {key: np.array(["café", "tea"])}
    assert read(npz(arrays(**named)), tmp_path).classes == ("café", "tea")
    named[key] = np.array([b"cat", b"dog"])
    assert read(npz(arrays(**named)), tmp_path).classes == ("cat", "dog")
    metadata = {key: json.dumps(["cat", "dog"])}
    assert read(save_numpy(arrays(), metadata), tmp_path).classes == ("cat", "dog")


def test_class_names_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    refusals: list[tuple[Array, str]] = [
        (np.array(["cat"]), "1 class names, but there is a label 1"),
        (np.array(["cat", "cat"]), "classes: there is a class 'cat' twice"),
        (np.array(["cat", ""]), "classes: '' is not the name of a class"),
        (np.array([1, 2]), "class names are text"),
    ]
    for names, message in refusals:
        assert message in refused(npz(arrays(classes=names)), tmp_path)
    spare = np.array(["cat", "dog", "owl"])
    assert refused(npz(arrays(classes=spare)), tmp_path) == "class 'owl' has no image in train"
    assert "expected a JSON list" in refused(save_numpy(arrays(), {"classes": "cat"}), tmp_path)


def test_class_names_given_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(npz(arrays()))
    assert uploads.read_dataset(path, "a.npz", MOST, ("cat", "dog")).classes == ("cat", "dog")


@pytest.mark.parametrize("dtype", ["int64", "float32", "float64", "float16"])
def test_grey_levels_of_another_type(tmp_path: Path, dtype: str) -> None:
    content = arrays(train_x=LEVELS.astype(dtype), test_x=LEVELS[:2])
    dataset = read(npz(content), tmp_path)
    assert (dataset.images["train"] == LEVELS).all()
    assert dataset.notes == ()


def test_values_from_0_to_1_that_are_grey_levels(tmp_path: Path) -> None:
    unit = LEVELS.astype(np.float32) / 255
    dataset = read(npz(arrays(train_x=unit, test_x=LEVELS[:2])), tmp_path)
    assert (dataset.images["train"] == LEVELS).all()
    assert dataset.notes == (
        "train_x: the values from 0 to 1 were read as grey levels divided by 255",
    )


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ((LEVELS - 120.0) / 60, r"test_x: .* from -2 to -0.\d+; if these are normalised, send"),
        (LEVELS.astype(float) * np.nan, "test_x: images must be uint8"),
        (LEVELS / 255 * 0.99, "no grey levels; round them after multiplying by 255"),
        (LEVELS + 0.3, "no grey levels; round them to whole numbers"),
        (LEVELS * 10.0, "from 0 to 1.15e.03; scale them to 0..255"),
        (LEVELS.astype(bool), "found bool"),
    ],
)
def test_values_that_are_no_grey_levels_are_refused(
    tmp_path: Path, images: Array, message: str
) -> None:
    content = arrays(train_x=LEVELS, test_x=images[:2])
    with pytest.raises(DataError, match=message):
        read(npz(content), tmp_path)


def test_arrays_without_splits_are_split_by_class(tmp_path: Path) -> None:
    labels = np.arange(20) % 2
    images = np.arange(20, dtype=np.uint8)[:, None, None] * np.ones((20, 2, 2), np.uint8)
    dataset = read(npz({"images": images, "labels": labels}), tmp_path)
    assert np.bincount(dataset.labels["test"]).tolist() == [2, 2]
    for split in ("train", "test"):
        pixels = dataset.images[split][:, 0, 0, 0]
        assert (labels[pixels] == dataset.labels[split]).all()
    assert "there are no splits: 4 of 20 images" in dataset.notes[0]


def test_val_arrays_report_where_there_are_none_for_testing(tmp_path: Path) -> None:
    content = arrays()
    renamed = {name.replace("test", "valid"): array for name, array in content.items()}
    dataset = read(npz(renamed), tmp_path)
    assert dataset.counts == {"train": 4, "val": 0, "test": 2}
    assert "those for validation report" in dataset.notes[0]


def test_arrays_that_expand_much_are_no_bomb(tmp_path: Path) -> None:
    """Sorted labels and constant images deflate 1000 times; what they claim beyond is refused."""
    count = 140_000
    images = np.zeros((count, 2, 2), np.uint8)
    labels = np.sort(np.arange(count) % 2)
    content = npz(arrays(train_x=images, train_y=labels, test_x=images[:2]), compressed=True)
    assert len(content) < 10_000
    assert read(content, tmp_path).counts["train"] == count
    assert "the zip expands to" in read_refused_at(content, tmp_path, most=count * 8)


def read_refused_at(content: bytes, tmp_path: Path, most: int) -> str:
    """Read arrays above a limit; return the message."""
    with pytest.raises(DataError) as caught:
        read(content, tmp_path, most)
    return caught.value.message


def test_bitmaps_may_expand_too(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    black = bytes(2 * 10**6)
    path.write_bytes(zipped({"train/a/1.bmp": black, "train/b/1.ppm": black}))
    with open_archive(path, MOST) as archive:
        assert len(archive.infolist()) == 2


def corrupted(*names: str, severities: int = 5) -> dict[str, Array]:
    """Draw arrays as CIFAR-10-C has them: 4 images of 2 classes at each severity."""
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (4 * severities, 6, 6, 3), np.uint8) for name in names}
    return {**images, "labels": np.tile([0, 1, 1, 0], severities)}


def test_corrupted_arrays_are_test_images_by_shift(tmp_path: Path) -> None:
    content = corrupted("gaussian_noise", "fog")
    for packed in (npz(content), in_folder("CIFAR-10-C", content)):
        dataset = read(packed, tmp_path)
        assert dataset.counts == {"train": 0, "val": 0, "test": 40}
        column = dataset.groups["shift"]
        assert column.values == tuple(
            f"{name}.{severity}" for name in ("fog", "gaussian_noise") for severity in range(1, 6)
        )
        assert set(column.counts().values()) == {4}
        foggy = dataset.images["test"][column.codes == column.values.index("fog.3")]
        assert (foggy == content["fog"][8:12].transpose(0, 3, 1, 2)).all()
        assert dataset.labels["test"][:4].tolist() == [0, 1, 1, 0]
    single = corrupted("fog")
    single["labels"] = single["labels"][:4]
    assert read(npz(single), tmp_path).groups["shift"].values == tuple("12345")
    single["labels"] = np.array([0, 1, 0])
    assert refused(npz(single), tmp_path) == "fog: 20 images, but 3 labels"


def in_folder(folder: str, content: dict[str, Array]) -> bytes:
    """Pack .npy files in a folder into a zip."""
    files = {}
    for name, array in content.items():
        buffer = io.BytesIO()
        np.save(buffer, array)
        files[f"{folder}/{name}.npy"] = buffer.getvalue()
    return zipped(files)
