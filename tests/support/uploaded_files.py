"""Files of datasets as they are uploaded, and how they are read."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pruning.data import uploads
from pruning.data.arrays import Arrays

Array = np.ndarray[Any, Any]
MOST = 10**7
"""The most values that a dataset may decode to."""


def picture(seed: int, size: tuple[int, int] = (4, 4), mode: str = "RGB") -> Array:
    """Draw the pixels of an image."""
    shape = (*size, 3) if mode == "RGB" else size
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels: Array, format: str = "PNG", **options: Any) -> bytes:
    """Encode an image as a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def folder(mode: str = "RGB", **changes: bytes | None) -> dict[str, bytes]:
    """Draw the files of two classes, with two images each in train and one in test.

    `changes` replace files by path, with `__` for `/` and `_dot_` for `.`; None removes one.
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
    """Pack files into a zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=compression)
    return buffer.getvalue()


def arrays(**changes: Any) -> dict[str, Array]:
    """Draw the arrays of a small dataset; `changes` replace some, None removes one."""
    rng = np.random.default_rng(0)
    defaults: dict[str, Any] = {
        "train_x": rng.integers(0, 256, (4, 1, 2, 2), dtype=np.uint8),
        "train_y": np.array([0, 1, 0, 1]),
        "test_x": rng.integers(0, 256, (2, 1, 2, 2), dtype=np.uint8),
        "test_y": np.array([0, 1]),
    }
    return {key: value for key, value in (defaults | changes).items() if value is not None}


def npz(content: dict[str, Array], compressed: bool = False) -> bytes:
    """Write arrays as an npz file."""
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, allow_pickle=True, **content)
    return buffer.getvalue()


def read(content: bytes, tmp_path: Path, most: int = MOST) -> Arrays:
    """Read the bytes of an upload."""
    path = tmp_path / "upload"
    path.write_bytes(content)
    return uploads.read_dataset(path, "upload.zip", most)


JPEG = encoded(picture(0, (64, 64)), "JPEG")
"""The bytes of a JPEG file."""
