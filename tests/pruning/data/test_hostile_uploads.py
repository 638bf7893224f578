"""Hostile and mistaken uploads are refused, with a message that says why."""

from __future__ import annotations

import io
import pickle
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save as save_numpy
from safetensors.torch import save as save_torch

from pruning.errors import DataError, UnsafeFormatError
from tests.support.uploaded_files import (
    JPEG,
    MOST,
    arrays,
    encoded,
    folder,
    npz,
    picture,
    read,
    zipped,
)


def saved_weights() -> bytes:
    buffer = io.BytesIO()
    torch.save({"fc.weight": torch.zeros(2)}, buffer)
    return buffer.getvalue()


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


PNG16 = encoded(picture(0, mode="L").astype(np.uint16) * 256)
HOSTILE: dict[str, tuple[Callable[[], bytes], type[Exception], str]] = {
    "nothing": (lambda: b"", DataError, "neither a zip of images nor npz nor safetensors"),
    "gzip": (lambda: b"\x1f\x8b" + bytes(40), DataError, "a gzip file; send a zip of images"),
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
    "no class": (
        lambda: zipped({"train/1.png": encoded(picture(0)), "test/a/1.png": encoded(picture(1))}),
        DataError,
        "'train/1.png' does not fit the layout",
    ),
    "an unknown split": (
        lambda: zipped(folder(spare__a__1_dot_png=encoded(picture(0)))),
        DataError,
        "'spare' are beside folders of splits",
    ),
    "splits below the classes": (
        lambda: zipped({"a/train/1.png": encoded(picture(0)), "b/train/1.png": b""}),
        DataError,
        "folders of splits lie below others, as in 'a/train/1.png'",
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
    "weights": (lambda: saved_weights(), DataError, "uploaded as a model"),
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
        lambda: npz(arrays(train_y=np.eye(2, dtype=int)[[0, 1, 0, 1]])),
        DataError,
        "whole numbers.* of labels that are one-hot, send the argmax",
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


@pytest.mark.parametrize("files", [folder(), {"images/train/a.png": b""}])
def test_an_entry_without_a_name_is_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    with pytest.raises(DataError, match="without a name"):
        read(zipped(files | {"": b"x"}), tmp_path)


def test_an_animation_is_refused(tmp_path: Path) -> None:
    target = io.BytesIO()
    frames = [Image.fromarray(picture(seed)) for seed in (0, 1)]
    frames[0].save(target, format="WEBP", save_all=True, append_images=frames[1:], lossless=True)
    with pytest.raises(DataError, match="animation"):
        read(zipped(folder(train__a__1_dot_png=target.getvalue())), tmp_path)
