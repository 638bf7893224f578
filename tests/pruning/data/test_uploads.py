"""Uploaded datasets that are read, in all their layouts."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save as save_numpy

from pruning.data.arrays import Arrays
from tests.support.uploaded_files import (
    JPEG,
    Array,
    arrays,
    encoded,
    folder,
    npz,
    picture,
    read,
    zipped,
)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_folder_of_images(tmp_path: Path, compression: int) -> None:
    extra = {
        "train/": b"",
        "train/a/": b"",
        "__MACOSX/train/a/._1.png": b"x",
        "train/a/.DS_Store": b"x",
    }
    dataset = read(zipped(folder() | extra, compression), tmp_path)
    assert dataset.classes == ("a", "b")
    assert dataset.counts == {"train": 4, "val": 0, "test": 2}
    assert dataset.labels["train"].tolist() == [0, 0, 1, 1]
    for index in range(4):
        assert (dataset.images["train"][index] == picture(index).transpose(2, 0, 1)).all()
    assert (dataset.images["test"][1] == picture(5).transpose(2, 0, 1)).all()


def test_grey_images_stay_grey(tmp_path: Path) -> None:
    dataset = read(zipped(folder("L")), tmp_path)
    assert dataset.shape == (1, 4, 4)
    assert (dataset.images["train"][2, 0] == picture(2, mode="L")).all()


@pytest.mark.parametrize(
    "odd", ["train__a__1_dot_png", "train__b__2_dot_png", "test__a__1_dot_png"]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_one_colour_image_makes_the_dataset_colour(tmp_path: Path, mode: str, odd: str) -> None:
    """Colour must not be lost because the first image happens to be grey, as in ImageNet."""
    other = "L" if mode == "RGB" else "RGB"
    dataset = read(zipped(folder(mode, **{odd: encoded(picture(99, mode=other))})), tmp_path)
    assert dataset.shape == (3, 4, 4)
    name = odd.replace("__", "/").replace("_dot_", ".")
    order = {
        "train": ["train/a/1.png", "train/a/2.png", "train/b/1.png", "train/b/2.png"],
        "test": ["test/a/1.png", "test/b/1.png"],
    }
    for split, names in order.items():
        for image, path in zip(dataset.images[split], names, strict=True):
            seed = [
                "train/a/1.png",
                "train/a/2.png",
                "train/b/1.png",
                "train/b/2.png",
                "test/a/1.png",
                "test/b/1.png",
            ].index(path)
            pixels = picture(99, mode=other) if path == name else picture(seed, mode=mode)
            expected = np.stack([pixels] * 3) if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
            assert (image == expected).all()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("layout", ["NHW", "NCHW", "NHWC", "colour NHWC"])
def test_arrays_of_every_layout(tmp_path: Path, layout: str, compressed: bool) -> None:
    rng = np.random.default_rng(1)
    channels = 3 if "colour" in layout else 1
    train, test = (rng.integers(0, 256, (n, channels, 5, 4), dtype=np.uint8) for n in (4, 2))

    def laid_out(images: Array) -> Array:
        if layout == "NHW":
            return images[:, 0]
        if layout == "NCHW":
            return images
        return images.transpose(0, 2, 3, 1)

    content = arrays(
        train_x=laid_out(train), test_x=laid_out(test), train_y=np.array([0, 1, 1, 0], np.uint8)
    )
    dataset = read(npz(content, compressed), tmp_path)
    assert (dataset.images["train"] == train).all()
    assert (dataset.images["test"] == test).all()
    assert dataset.labels["train"].dtype == np.int64
    also = read(
        save_numpy({key: np.ascontiguousarray(value) for key, value in content.items()}), tmp_path
    )
    assert (also.images["train"] == train).all()
    assert (also.labels["train"] == dataset.labels["train"]).all()


def test_a_val_split_may_miss_a_class(tmp_path: Path) -> None:
    dataset = read(
        npz(arrays(val_x=np.zeros((1, 1, 2, 2), np.uint8), val_y=np.array([1]))), tmp_path
    )
    assert dataset.counts == {"train": 4, "val": 1, "test": 2}


def test_a_shifted_set_has_test_images_alone_and_of_any_class(tmp_path: Path) -> None:
    dataset = read(
        zipped({"test/b/1.png": encoded(picture(0)), "test/b/2.png": encoded(picture(1))}), tmp_path
    )
    assert (dataset.classes, dataset.counts) == (("b",), {"train": 0, "val": 0, "test": 2})
    assert dataset.shape == (3, 4, 4)
    dataset = read(npz(arrays(train_x=None, train_y=None)), tmp_path)
    dataset.save(tmp_path / "kept")
    again = Arrays.load(tmp_path / "kept")
    assert (again.classes, again.counts) == (dataset.classes, dataset.counts)


def test_classes_may_be_called_masks(tmp_path: Path) -> None:
    named = {
        name.replace("/a/", "/masks/").replace("/b/", "/no_masks/"): content
        for name, content in folder().items()
    }
    assert read(zipped(named), tmp_path).classes == ("masks", "no_masks")


def test_an_empty_val_is_none(tmp_path: Path) -> None:
    empty = {"val_x": np.zeros((0, 1, 2, 2), np.uint8), "val_y": np.zeros(0, np.int64)}
    assert "val" not in read(npz(arrays(**empty)), tmp_path).images


def test_it_is_known_where_all_images_are_jpeg_files(tmp_path: Path) -> None:
    def stored_as(**changes: bytes) -> str | None:
        read(
            zipped({**{name.replace(".png", ".jpg"): JPEG for name in folder()}, **changes}),
            tmp_path,
        ).save(tmp_path / "kept")
        return Arrays.load(tmp_path / "kept").stored_as

    assert stored_as() == "JPEG"
    with Image.open(io.BytesIO(JPEG)) as image:
        png = io.BytesIO()
        image.save(png, "PNG")
    assert stored_as(**{"train/a/3.png": png.getvalue()}) is None


# a header length that looks like a pickle's or a zip's first bytes


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x0480, 0x0580, 0x4B50])
def test_a_header_of_an_unlucky_length_is_still_read(tmp_path: Path, length: int) -> None:
    content = save_numpy(arrays())
    (before,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + before])
    header["__metadata__"] = {"pad": ""}
    header["__metadata__"]["pad"] = "x" * (length - len(json.dumps(header)))
    unlucky = struct.pack("<Q", length) + json.dumps(header).encode() + content[8 + before :]
    assert read(unlucky, tmp_path).counts["train"] == 4
