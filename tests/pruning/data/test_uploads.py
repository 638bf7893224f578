"""Uploaded datasets: good ones are read, and hostile files are refused."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save as save_numpy
from safetensors.torch import save as save_torch

from pruning.data import images as image_files
from pruning.data import uploads
from pruning.data.arrays import Arrays
from pruning.errors import DataError, UnsafeFormatError

Array = np.ndarray[Any, Any]
MOST = 10**7


def picture(seed: int, size: tuple[int, int] = (4, 4), mode: str = "RGB") -> Array:
    shape = (*size, 3) if mode == "RGB" else size
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels: Array, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def folder(mode: str = "RGB", **changes: bytes | None) -> dict[str, bytes]:
    """Two classes, two images each in train, one in test; `changes` by path with `__` for `/`, None
    removes.
    """
    names = [
        "train/a/1.png",
        "train/a/2.png",
        "train/b/1.png",
        "train/b/2.png",
        "test/a/1.png",
        "test/b/1.png",
    ]
    files = {name: encoded(picture(seed, mode=mode)) for seed, name in enumerate(names)}
    for key, value in changes.items():
        name = key.replace("__", "/").replace("_dot_", ".")
        files.pop(name, None)
        if value is not None:
            files[name] = value
    return files


def zipped(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=compression)
    return buffer.getvalue()


def arrays(**changes: Any) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    defaults: dict[str, Any] = {
        "train_x": rng.integers(0, 256, (4, 1, 2, 2), dtype=np.uint8),
        "train_y": np.array([0, 1, 0, 1]),
        "test_x": rng.integers(0, 256, (2, 1, 2, 2), dtype=np.uint8),
        "test_y": np.array([0, 1]),
    }
    return {key: value for key, value in (defaults | changes).items() if value is not None}


def npz(content: dict[str, Array], compressed: bool = False) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, allow_pickle=True, **content)
    return buffer.getvalue()


def read(content: bytes, tmp_path: Path, most: int = MOST) -> Arrays:
    path = tmp_path / "upload"
    path.write_bytes(content)
    return uploads.read_dataset(path, "upload.zip", most)


# what is accepted


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


# what is refused


def zip_with(name: str, content: bytes = b"x", mode: int = 0o644 | stat.S_IFREG) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for key, value in folder().items():
            archive.writestr(key, value)
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr(info, content)
    return buffer.getvalue()


def encrypted() -> bytes:
    content = bytearray(zipped(folder()))
    at = content.index(b"PK\x01\x02")
    content[at + 8] |= 1
    return bytes(content)


def damaged(compression: int) -> bytes:
    """An entry whose compressed bytes are broken."""
    content = bytearray(
        zipped({key: value + bytes(200) for key, value in folder().items()}, compression)
    )
    start = content.index(b"1.png") + 5
    content[start : start + 40] = b"\xff" * 40
    return bytes(content)


def with_method(method: int) -> bytes:
    """A zip that claims an unknown compression."""
    content = bytearray(zipped(folder()))
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        start = content.find(signature)
        while start >= 0:
            content[start + offset : start + offset + 2] = struct.pack("<H", method)
            start = content.find(signature, start + 1)
    return bytes(content)


def huge_npy(shape: str) -> bytes:
    """An array that claims a shape far beyond its bytes."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(8)
    return zipped({"train_x.npy": npy, "train_y.npy": npy, "test_x.npy": npy, "test_y.npy": npy})


def bf16() -> bytes:
    return save_torch(
        {
            name: torch.zeros(2, 1, 2, 2, dtype=torch.bfloat16)
            for name in ("train_x", "train_y", "test_x", "test_y")
        }
    )


JPEG = encoded(picture(0, (64, 64)), "JPEG")
PNG16 = encoded(picture(0, mode="L").astype(np.uint16) * 256)
HOSTILE: dict[str, tuple[Callable[[], bytes], type[Exception], str]] = {
    "nothing": (lambda: b"", DataError, "neither a zip of images nor npz nor safetensors"),
    "text": (lambda: b"hello world, this is text", DataError, "neither a zip"),
    "empty zip": (lambda: zipped({}), DataError, "holds no images"),
    "only folders": (lambda: zipped({"train/": b"", "test/": b""}), DataError, "holds no images"),
    "half a zip": (lambda: zipped(folder())[:200], DataError, "not a readable zip"),
    "bomb": (
        lambda: zipped({**folder(), "train/a/z.png": bytes(5 * 10**6)}),
        DataError,
        "at most 200 times",
    ),
    "large bomb": (
        lambda: zipped({**folder(), "train/a/z.png": bytes(MOST + 1)}, zipfile.ZIP_STORED),
        DataError,
        "the zip expands to",
    ),
    "parent": (lambda: zip_with("../x.png"), UnsafeFormatError, "leaves its folder"),
    "inner parent": (lambda: zip_with("train/../../x.png"), UnsafeFormatError, "leaves its folder"),
    "backslash parent": (
        lambda: zip_with("train\\..\\..\\x.png"),
        UnsafeFormatError,
        "leaves its folder",
    ),
    "absolute": (lambda: zip_with("/etc/passwd"), UnsafeFormatError, "leaves its folder"),
    "drive": (lambda: zip_with("C:/x.png"), UnsafeFormatError, "leaves its folder"),
    "symlink": (
        lambda: zip_with("train/a/3.png", b"/etc/passwd", 0o777 | stat.S_IFLNK),
        UnsafeFormatError,
        "link",
    ),
    "device": (
        lambda: zip_with("train/a/3.png", b"", 0o666 | stat.S_IFCHR),
        UnsafeFormatError,
        "device",
    ),
    "encrypted": (encrypted, DataError, "encrypted"),
    "broken deflate": (lambda: damaged(zipfile.ZIP_DEFLATED), DataError, "not a readable image"),
    "broken bzip2": (lambda: damaged(zipfile.ZIP_BZIP2), DataError, "not a readable image"),
    "broken lzma": (lambda: damaged(zipfile.ZIP_LZMA), DataError, "not a readable image"),
    "broken checksum": (lambda: damaged(zipfile.ZIP_STORED), DataError, "not a readable image"),
    "unknown compression": (lambda: with_method(97), DataError, "not a readable image"),
    "class missing from test": (
        lambda: zipped(folder(test__b__1_dot_png=None)),
        DataError,
        "class 'b' has no image in test",
    ),
    "class only in test": (
        lambda: zipped(folder(test__c__1_dot_png=encoded(picture(0)))),
        DataError,
        "class 'c' is in test but not in train",
    ),
    "no test": (
        lambda: zipped(folder(test__a__1_dot_png=None, test__b__1_dot_png=None)),
        DataError,
        "no test images",
    ),
    "labels of val alone": (
        lambda: npz(arrays(val_y=np.array([0]))),
        DataError,
        "expected train_x",
    ),
    "one class": (
        lambda: zipped(
            folder(train__b__1_dot_png=None, train__b__2_dot_png=None, test__b__1_dot_png=None)
        ),
        DataError,
        "has 1 class",
    ),
    "one image": (
        lambda: zipped({"train/a/1.png": encoded(picture(0))}),
        DataError,
        "no test images",
    ),
    "too deep": (
        lambda: zipped({"data/train/a/1.png": encoded(picture(0))}),
        DataError,
        "does not fit the layout",
    ),
    "another file": (
        lambda: zipped(folder(train__a__readme_dot_txt=b"hi")),
        DataError,
        "does not fit the layout",
    ),
    "truncated jpeg": (
        lambda: zipped(folder(train__a__3_dot_jpg=JPEG[: len(JPEG) // 2])),
        DataError,
        "train/a/3.jpg: not a readable image",
    ),
    "no image": (
        lambda: zipped(folder(train__a__3_dot_jpg=b"<html></html>")),
        DataError,
        "not a readable image",
    ),
    "empty image": (
        lambda: zipped(folder(train__a__3_dot_jpg=b"")),
        DataError,
        "not a readable image",
    ),
    "postscript": (
        lambda: zipped(folder(train__a__3_dot_jpg=encoded(picture(0), "EPS"))),
        DataError,
        "not a readable image",
    ),
    "gif": (
        lambda: zipped(folder(train__a__3_dot_png=encoded(picture(0, mode="L"), "GIF"))),
        DataError,
        "not a readable image",
    ),
    "16 bits": (lambda: zipped(folder(train__a__3_dot_png=PNG16)), DataError, "8 bits"),
    "mixed sizes": (
        lambda: zipped(folder(train__a__3_dot_png=encoded(picture(0, (4, 5))))),
        DataError,
        "5x4 pixels beside 4x4",
    ),
    "sizes differ by split": (
        lambda: zipped(
            folder(
                test__a__1_dot_png=encoded(picture(0, (5, 4))),
                test__b__1_dot_png=encoded(picture(0, (5, 4))),
            )
        ),
        DataError,
        "test: images of shape",
    ),
    "pickle": (lambda: pickle.dumps({"train_x": 1}), UnsafeFormatError, "pickle"),
    "old pickle": (lambda: pickle.dumps({"train_x": 1}, protocol=2), UnsafeFormatError, "pickle"),
    "oldest pickle": (lambda: pickle.dumps({"train_x": 1}, protocol=0), DataError, "neither a zip"),
    "torch file": (
        lambda: zipped({"archive/data.pkl": b"x", "archive/version": b"3"}),
        DataError,
        "layout",
    ),
    "objects": (
        lambda: npz(arrays(train_x=np.array([{}, {}, {}, {}], dtype=object))),
        UnsafeFormatError,
        "Python objects",
    ),
    "huge array": (lambda: huge_npy("(4, 1, 1000000, 10000000)"), DataError, "train_x"),
    "overflowing array": (lambda: huge_npy("(4294967296, 4294967296, 1)"), DataError, "train_x"),
    "negative array": (lambda: huge_npy("(-1, 2, 2)"), DataError, "train_x"),
    "short array": (lambda: huge_npy("(4, 1, 2, 200)"), DataError, "train_x"),
    "strange array": (lambda: huge_npy("(4, __import__('os'))"), DataError, "train_x"),
    "no array": (lambda: zipped({"train_x.npy": b"x" * 100}), DataError, "train_x"),
    "truncated safetensors": (lambda: save_numpy(arrays())[:-3], DataError, "neither a zip"),
    "safetensors of bfloat16": (bf16, DataError, "neither a zip"),
    "array missing": (
        lambda: npz(arrays(test_y=None)),
        DataError,
        "expected train_x, train_y, test_x, test_y",
    ),
    "array too many": (lambda: npz(arrays(extra=np.zeros(1))), DataError, "expected train_x"),
    "val images without labels": (
        lambda: npz(arrays(val_x=np.zeros((1, 1, 2, 2), np.uint8))),
        DataError,
        "val_y",
    ),
    "float images": (
        lambda: npz(arrays(train_x=np.zeros((4, 1, 2, 2)))),
        DataError,
        "must be uint8",
    ),
    "five channels": (
        lambda: npz(arrays(train_x=np.zeros((4, 5, 2, 2), np.uint8))),
        DataError,
        "1 or 3 channels",
    ),
    "flat images": (lambda: npz(arrays(train_x=np.zeros((4, 4), np.uint8))), DataError, "expected"),
    "images without pixels": (
        lambda: npz(
            arrays(
                train_x=np.zeros((4, 1, 0, 2), np.uint8), test_x=np.zeros((2, 1, 0, 2), np.uint8)
            )
        ),
        DataError,
        "no pixels",
    ),
    "no images": (
        lambda: npz(
            arrays(train_x=np.zeros((0, 1, 2, 2), np.uint8), train_y=np.zeros(0, np.int64))
        ),
        DataError,
        "no train images",
    ),
    "other shapes in test": (
        lambda: npz(arrays(test_x=np.zeros((2, 1, 3, 2), np.uint8))),
        DataError,
        "beside",
    ),
    "too few labels": (
        lambda: npz(arrays(train_y=np.array([0, 1]))),
        DataError,
        "4 images but labels of shape",
    ),
    "labels as columns": (
        lambda: npz(arrays(train_y=np.array([[0], [1], [0], [1]]))),
        DataError,
        "whole numbers",
    ),
    "float labels": (
        lambda: npz(arrays(train_y=np.array([0.0, 1.0, 0.0, 1.0]))),
        DataError,
        "whole numbers",
    ),
    "bool labels": (
        lambda: npz(arrays(train_y=np.array([True, False, True, False]))),
        DataError,
        "whole numbers",
    ),
    "negative labels": (
        lambda: npz(arrays(train_y=np.array([0, 1, -1, 1]))),
        DataError,
        "labels from -1",
    ),
    "gap in the labels": (
        lambda: npz(arrays(train_y=np.array([0, 3, 0, 3]))),
        DataError,
        "class '1' has no image",
    ),
    "huge labels": (
        lambda: npz(arrays(train_y=np.array([0, 1, 0, 2**63], np.uint64))),
        DataError,
        "largest label",
    ),
    "one label": (
        lambda: npz(arrays(train_y=np.zeros(4, int), test_y=np.zeros(2, int))),
        DataError,
        "has 1 class",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(tmp_path: Path, case: str) -> None:
    make, error, message = HOSTILE[case]
    with pytest.raises(error, match=message):
        read(make(), tmp_path)


def test_too_many_values_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    flat = encoded(np.zeros((100, 100, 3), np.uint8))
    assert len(flat) < 1000
    files = {
        f"{split}/{label}/{i}.png": flat
        for split in ("train", "test")
        for label in "ab"
        for i in range(2)
    }
    assert read(zipped(files), tmp_path, most=240_000).shape == (3, 100, 100)
    with pytest.raises(DataError, match="decode to more than"):
        read(zipped(files), tmp_path, most=119_999)
    with pytest.raises(
        DataError, match="decode to more than"
    ):  # the limit is that of the dataset, not of a split
        read(zipped(files), tmp_path, most=239_999)


def test_an_image_of_too_many_pixels_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_files, "MAX_IMAGE_PIXELS", 15)
    with pytest.raises(DataError, match="4x4 pixels; at most 15"):
        read(zipped(folder()), tmp_path)


@pytest.mark.parametrize(
    ("name", "limit", "message"),
    [("MAX_ENTRIES", 5, "6 entries; at most 5"), ("MAX_ENTRY_BYTES", 10, "bytes; at most 10")],
)
def test_limits_of_the_zip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, limit: int, message: str
) -> None:
    monkeypatch.setattr(uploads if hasattr(uploads, name) else image_files, name, limit)
    with pytest.raises(DataError, match=message):
        read(zipped(folder()), tmp_path)


SEEDS = {
    "zip": zipped(
        folder(
            train__a__3_dot_jpg=encoded(picture(0), "JPEG"),
            train__a__4_dot_bmp=encoded(picture(1), "BMP"),
            train__a__5_dot_tif=encoded(picture(1), "TIFF"),
            train__a__6_dot_webp=encoded(picture(1), "WEBP"),
            train__a__7_dot_ppm=encoded(picture(1), "PPM"),
        ),
        zipfile.ZIP_STORED,
    ),
    "deflated": zipped(folder()),
    "npz": npz(arrays()),
    "safetensors": save_numpy(arrays()),
}


@pytest.mark.parametrize("files", [folder(), {"images/train/a.png": b""}])
def test_an_entry_without_a_name_is_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    with pytest.raises(DataError, match="without a name"):
        read(zipped(files | {"": b"x"}), tmp_path)


@pytest.mark.filterwarnings("ignore")  # decoders warn of what they find in broken files
@pytest.mark.parametrize("kind", SEEDS)
@settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    edits=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6
    ),
    cut=st.one_of(st.none(), st.floats(0, 1)),
)
def test_damaged_files_never_fail_otherwise(
    tmp_path: Path, kind: str, edits: list[tuple[float, int]], cut: float | None
) -> None:
    content = bytearray(SEEDS[kind])
    for position, value in edits:
        content[int(position * len(content))] = value
    if cut is not None:
        del content[int(cut * len(content)) :]
    with contextlib.suppress(DataError, UnsafeFormatError):
        read(bytes(content), tmp_path)


def test_an_animation_is_refused(tmp_path: Path) -> None:
    target = io.BytesIO()
    frames = [Image.fromarray(picture(seed)) for seed in (0, 1)]
    frames[0].save(target, format="WEBP", save_all=True, append_images=frames[1:], lossless=True)
    with pytest.raises(DataError, match="animation"):
        read(zipped(folder(train__a__1_dot_png=target.getvalue())), tmp_path)
