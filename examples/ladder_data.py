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
    """The array of a gzipped idx file: two zero bytes, type, number of axes, their lengths, the
    values (big-endian).
    """
    raw = gzip.decompress(path.read_bytes())
    if raw[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path.name}: no idx file of unsigned bytes")
    shape = struct.unpack_from(f">{raw[3]}I", raw, 4)
    return np.frombuffer(raw, np.uint8, math.prod(shape), 4 + 4 * raw[3]).reshape(shape)


def pack_mnist(
    folder: Path, target: Path, images: dict[str, int] | None = None, *, padding: int = 0
) -> Path:
    """One safetensors file, as `POST /v1/datasets` takes it, from the four files of the folder.

    The first images of each split, as many as `images` says, with `padding` black pixels on every
    side.
    """
    found = {}
    for split, name in (("train", "train"), ("test", "t10k")):
        first = slice((images or {}).get(split))
        digits = read_idx(folder / f"{name}-images-idx3-ubyte.gz")[first, None]
        found[f"{split}_x"] = np.pad(
            digits, [(0, 0), (0, 0), (padding, padding), (padding, padding)]
        )
        found[f"{split}_y"] = read_idx(folder / f"{name}-labels-idx1-ubyte.gz")[first].astype(
            np.int64
        )
    save_file(found, target)
    return target


def thin(source: Path, target: Path, images: dict[str, int]) -> Path:
    """The first images of each class of a zip in ImageFolder layout, so many of each split, if they
    are that many.
    """
    with zipfile.ZipFile(source) as given, zipfile.ZipFile(target, "w") as small:
        names = [name for name in given.namelist() if not name.endswith("/")]
        folders = {name: str(PurePosixPath(name).parent) for name in names}
        classes = Counter(PurePosixPath(folder).parent.name for folder in set(folders.values()))
        taken: Counter[str] = Counter()
        for name in sorted(names):
            folder = folders[name]
            split = PurePosixPath(folder).parent.name
            if taken[folder] < images.get(split, math.inf) / classes[split]:
                taken[folder] += 1
                small.writestr(name, given.read(name))
    return target
