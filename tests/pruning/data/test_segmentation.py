"""Datasets of images with masks: read, refused, and prepared for a job."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pruning.data import uploads
from pruning.data.arrays import Arrays
from pruning.data.augmentation import augment, augment_batch
from pruning.data.subsets import draw_subset
from pruning.data.tensors import (
    PIXELS,
    Data,
    Split,
    prepare,
)
from pruning.errors import DataError, UnsafeFormatError
from pruning.schemas.recipe import Limit
from tests.support.segmentation_world import MOST, jpeg, pairs, png, upload


def read(files: dict[str, bytes], tmp_path: Path, most: int = MOST) -> Arrays:
    return uploads.read_dataset(upload(files, tmp_path), "upload.zip", most)


@pytest.mark.parametrize("layout", ["images/{split}", "{split}/images"])
def test_images_with_masks_are_read_and_padded(tmp_path: Path, layout: str) -> None:
    """JPEGs of differing sizes with palette masks: padding is the mean colour, and ignored in the
    mask.
    """
    files = pairs(layout, {"train": 3, "test": 2}, classes=4)
    dataset = read(files, tmp_path)
    assert dataset.task == "segmentation"
    assert dataset.counts == {"train": 3, "val": 0, "test": 2}
    assert dataset.classes == ("0", "1", "2", "3")
    sizes = []
    for split, index in (("train", 0), ("train", 2), ("test", 1)):
        at = layout.format(split=split)
        image = Image.open(io.BytesIO(files[f"{at}/{index:03d}.jpg"]))
        mask = np.asarray(
            Image.open(io.BytesIO(files[f"{at.replace('images', 'masks')}/{index:03d}.png"]))
        )
        rows, columns = mask.shape
        assert (
            dataset.images[split][index, :, :rows, :columns] == np.asarray(image).transpose(2, 0, 1)
        ).all()
        assert (dataset.labels[split][index, :rows, :columns] == mask).all()
        assert (dataset.labels[split][index, rows:] == 255).all()
        assert (dataset.labels[split][index, :, columns:] == 255).all()
        beside = [
            dataset.images[split][index][:, rows:],
            dataset.images[split][index][:, :, columns:],
        ]
        assert (
            len({tuple(colour) for part in beside for colour in part.reshape(3, -1).T.tolist()})
            <= 1
        )
        sizes.append((rows, columns))
    assert len(set(sizes)) > 1, "the test needs images of differing sizes"
    assert dataset.shape == (3, *dataset.labels["train"].shape[1:])
    assert any("padded" in note for note in dataset.notes)
    path = tmp_path / "decoded"
    dataset.save(path)
    again = Arrays.load(path)
    assert (again.task, again.notes, again.classes) == (
        dataset.task,
        dataset.notes,
        dataset.classes,
    )
    assert (again.labels["train"] == dataset.labels["train"]).all()


def test_padding_is_about_zero_after_normalisation(tmp_path: Path) -> None:
    files = {
        "images/train/a.png": png(np.full((8, 8, 3), 40, np.uint8)),
        "masks/train/a.png": png(np.eye(8, dtype=np.uint8)),
        "images/train/b.png": png(np.full((4, 16, 3), 90, np.uint8)),
        "masks/train/b.png": png(np.zeros((4, 16), np.uint8)),
        "images/test/c.png": png(np.full((4, 4, 3), 0, np.uint8)),
        "masks/test/c.png": png(np.zeros((4, 4), np.uint8)),
    }
    dataset = read(files, tmp_path)
    assert dataset.shape == (3, 8, 16)
    assert (dataset.images["train"][0, :, :, 8:] == 65).all()  # 64 pixels of 40, 64 of 90
    assert (dataset.images["test"][0, :, 4:] == 65).all()
    data = prepare(dataset, limit=Limit(), seed=0, normalize=None)
    assert data.mean == pytest.approx([65 / 255] * 3)
    assert abs(data.normalize(data.test.images)[0, :, 7, 15]).max() < 1e-6


def test_without_splits_a_fifth_is_set_aside_and_reported(tmp_path: Path) -> None:
    files = pairs("images", {"": 10})
    dataset, again = read(files, tmp_path), read(files, tmp_path)
    assert dataset.counts == {"train": 8, "val": 0, "test": 2}
    assert "2 of 10 images, drawn with seed 0, were set aside as test" in dataset.notes[0]
    assert (dataset.images["test"] == again.images["test"]).all()


def test_class_names_may_be_listed(tmp_path: Path) -> None:
    files = pairs("images/{split}", {"train": 2, "test": 1}, classes=3)
    assert read(files | {"classes.txt": b"sky\r\nroad\ncar\n\n"}, tmp_path).classes == (
        "sky",
        "road",
        "car",
    )
    with pytest.raises(
        DataError,
        match=r"masks/t.*: value 2, but there are 2 classes: values must lie in 0..1, or be 255",
    ):
        read(files | {"classes.txt": b"sky\nroad"}, tmp_path)
    for names in (b"sky\nsky", b"sky", b"\xff\xfe"):
        with pytest.raises(DataError, match=r"classes\.txt"):
            read(files | {"classes.txt": names}, tmp_path)


def test_grey_images_and_masks(tmp_path: Path) -> None:
    files = {
        f"{kind}/{split}/a.png": png(
            np.arange(16, dtype=np.uint8).reshape(4, 4) // (1 if kind == "images" else 8)
        )
        for kind in ("images", "masks")
        for split in ("train", "test")
    }
    dataset = read(files, tmp_path)
    assert dataset.shape == (1, 4, 4)
    assert dataset.classes == ("0", "1")


ONE = png(np.zeros((4, 4), np.uint8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"images/train/000.jpg": None},
            r"'masks/train/000\.png' has no file of its name in images/",
        ),
        (
            {"masks/train/001.png": None},
            r"'images/train/001\.jpg' has no file of its name in masks/",
        ),
        ({"masks/train/000.png": ONE}, r"masks/train/000\.png: 4x4 pixels, its image has"),
        (
            {
                "masks/train/000.png": png(np.zeros((4, 4, 3), np.uint8)),
                "images/train/000.jpg": jpeg(np.zeros((4, 4, 3), np.uint8)),
            },
            r"masks/train/000\.png: RGB pixels; a mask is a PNG with a palette or in grey",
        ),
        ({"masks/train/000.png": b"no image"}, r"masks/train/000\.png: not a readable image"),
        ({"images/train/000.png": ONE}, "have the same name"),
        ({"images/dev/000.jpg": ONE}, "does not fit the layout"),
        (
            {"images/000.jpg": ONE, "masks/000.png": ONE},
            "in the folder of a split and others are not",
        ),
        ({"masks/train/000.jpg": ONE}, "does not fit the layout"),
        ({"else/train/000.jpg": ONE}, "does not fit the layout"),
        ({"images/test/000.jpg": None, "masks/test/000.png": None}, "no test images"),
    ],
)
def test_archives_that_do_not_fit_are_refused(
    tmp_path: Path, changes: dict[str, bytes | None], message: str
) -> None:
    files = {
        key: value
        for key, value in (pairs("images/{split}", {"train": 3, "test": 1}) | changes).items()
        if value is not None
    }
    with pytest.raises(DataError, match=message):
        read(files, tmp_path)


def test_limits_and_safety_hold_for_masks_too(tmp_path: Path) -> None:
    files = pairs("images/{split}", {"train": 3, "test": 1})
    with pytest.raises(DataError, match=r"images with masks, padded to .* decode to more than"):
        read(files, tmp_path, 30_000)
    with pytest.raises(UnsafeFormatError, match="leaves its folder"):
        read(files | {"../masks/train/x.png": ONE}, tmp_path)


def masks(**changes: Any) -> Arrays:
    rng = np.random.default_rng(0)
    labels = {
        split: rng.integers(0, 3, (count, 5, 7)).astype(np.uint8)
        for split, count in (("train", 6), ("test", 2))
    }
    images = {
        split: rng.integers(0, 256, (len(split_labels), 3, 5, 7), dtype=np.uint8)
        for split, split_labels in labels.items()
    }
    return Arrays(images, labels | changes, ("a", "b", "c"))


def test_arrays_of_masks_are_checked(tmp_path: Path) -> None:
    ignored = np.full((2, 5, 7), 255, np.uint8)
    labels = masks().labels["train"].copy()
    labels[0] = 255
    masks(train=labels)  # an image to learn nothing from is accepted
    refused: list[tuple[dict[str, Any], str]] = [
        ({"test": ignored}, "test: all pixels of image 0 are 255.*nothing to measure"),
        ({"train": np.full((6, 5, 7), 255, np.uint8)}, "nothing to learn"),
        ({"test": ignored * 0 + 7}, "value 7 in a mask, but there are 3 classes"),
        ({"test": ignored[:, :4]}, "masks must be uint8"),
        ({"test": np.zeros(2, np.int64)}, "masks must be uint8"),
    ]
    for changes, message in refused:
        with pytest.raises(DataError, match=message):
            masks(**changes)
    with pytest.raises(DataError, match="255 in a mask is not a class"):
        Arrays(
            masks().images,
            {split: split_labels * 0 for split, split_labels in masks().labels.items()},
            ("0",),
        )


def test_npz_with_masks(tmp_path: Path) -> None:
    dataset = masks()
    path = tmp_path / "data.npz"
    columns: dict[str, Any] = {
        f"{split}_{part}": values[split]
        for part, values in (("x", dataset.images), ("y", dataset.labels))
        for split in ("train", "test")
    }
    np.savez(path, **columns)
    again = uploads.read_dataset(path, "data.npz", MOST)
    assert again.task == "segmentation"
    assert (again.labels["train"] == dataset.labels["train"]).all()
    np.savez(
        path,
        train_x=dataset.images["train"],
        train_y=dataset.labels["train"].astype(np.int32),
        test_x=dataset.images["test"],
        test_y=dataset.labels["test"],
    )
    with pytest.raises(DataError, match=r"train_y: .* or masks uint8 \(N, H, W\)"):
        uploads.read_dataset(path, "data.npz", MOST)


def test_a_job_splits_limits_and_renumbers_masks() -> None:
    arrays = masks()
    data = prepare(
        arrays, limit=Limit(train=4, test=1), seed=3, normalize=None, classes=["c", "a", "b"]
    )
    assert data.segmentation
    assert (len(data.fit), len(data.val), len(data.test)) == (3, 1, 1)
    for split in (data.fit, data.val):
        for image, mask in zip(split.images, split.labels, strict=True):
            (index,) = [
                i
                for i, candidate in enumerate(arrays.images["train"])
                if (candidate == image.numpy()).all()
            ]
            assert (
                mask.numpy() == np.array([1, 2, 0], np.uint8)[arrays.labels["train"][index]]
            ).all()
    labels = torch.zeros(9, 4, 4, dtype=torch.uint8)
    chosen, rest = draw_subset(labels, 4, "proportional", torch.Generator().manual_seed(0))
    assert sorted([*chosen.tolist(), *rest.tolist()]) == list(range(9))
    assert (
        chosen.tolist()
        == draw_subset(labels, 4, "plain", torch.Generator().manual_seed(0))[0].tolist()
    )


def test_large_images_come_in_small_batches() -> None:
    data = prepare(masks(), limit=Limit(), seed=0, normalize=None)
    assert data.at_once(100) == 100
    large = Split(
        torch.zeros(9, 1, 512, 512, dtype=torch.uint8), torch.zeros(9, 512, 512, dtype=torch.uint8)
    )
    data = Data(fit=large, val=large, test=large, classes=("a", "b"), mean=(0.0,), std=(1.0,))
    assert data.at_once(100) == PIXELS // 512**2 == 4
    assert [len(labels) for _, labels in data.batches(large, 100)] == [4, 4, 1]


@pytest.mark.parametrize("mode", ["none", "crop", "crop_flip"])
def test_augmentation_moves_masks_with_their_images(mode: str) -> None:
    """A mask that is the image's own first channel remains it, but that padding is black there and
    ignored here.
    """
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(1, 255, (32, 3, 9, 12), dtype=np.uint8))
    drawing = torch.Generator().manual_seed(1)
    augmented, masks = augment_batch(images, images[:, 0].clone(), mode, drawing)
    assert torch.equal(augmented, augment(images, mode, torch.Generator().manual_seed(1)))
    padded = masks == 255
    assert torch.equal(masks[~padded], augmented[:, 0][~padded])
    assert (augmented[:, 0][padded] == 0).all()
    assert bool(padded.any()) == (mode != "none")
