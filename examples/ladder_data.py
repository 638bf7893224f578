"""Datasets for the difficulty ladder: MNIST's idx files packed, a zip of images made smaller."""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read the array of a gzipped idx file: two zero bytes, type, number of axes, their lengths,
    the values (big-endian).
    """
    raw = gzip.decompress(path.read_bytes())
    unsigned_bytes = b"\x00\x00\x08"
    if raw[:3] != unsigned_bytes:
        raise ValueError(f"{path.name}: not an idx file of unsigned bytes")
    axes = raw[3]
    shape = struct.unpack_from(f">{axes}I", raw, offset=4)
    values = np.frombuffer(raw, np.uint8, count=math.prod(shape), offset=4 + 4 * axes)
    return values.reshape(shape)


def pack_mnist(
    folder: Path, target: Path, images: dict[str, int] | None = None, *, padding: int = 0
) -> Path:
    """Write one safetensors file, as `POST /v1/datasets` takes it, from the four files of the
    folder.

    It has the first images of each split, as many as `images` says, with `padding` black pixels on
    every side.
    """
    border = (padding, padding)
    tensors = {}
    for split, name in (("train", "train"), ("test", "t10k")):
        first = slice((images or {}).get(split))
        digits = read_idx(folder / f"{name}-images-idx3-ubyte.gz")[first, None]
        labels = read_idx(folder / f"{name}-labels-idx1-ubyte.gz")[first]
        tensors[f"{split}_x"] = np.pad(digits, [(0, 0), (0, 0), border, border])
        tensors[f"{split}_y"] = labels.astype(np.int64)
    save_file(tensors, target)
    return target


def thin(source: Path, target: Path, images: dict[str, int]) -> Path:
    """Write the first images of each class of a zip in ImageFolder layout: `images` of each split,
    or all where there are fewer.
    """
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as small:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        folders = {name: str(PurePosixPath(name).parent) for name in names}
        classes = Counter(PurePosixPath(folder).parent.name for folder in set(folders.values()))
        taken: Counter[str] = Counter()
        for name in sorted(names):
            folder = folders[name]
            split = PurePosixPath(folder).parent.name
            most = images.get(split, math.inf) / classes[split]
            if taken[folder] < most:
                taken[folder] += 1
                small.writestr(name, archive.read(name))
    return target
