"""Bytes of a file on disk that are read when they are asked for. Free of torch."""

from __future__ import annotations

import json
import math
import os
import struct
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pruning.errors import DataError

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
PREFIX_BYTES = 8
"""The length of a safetensors header, in the first bytes of its file."""
MOST_HEADER_BYTES = 100_000_000
"""The longest header that the library of safetensors reads."""
CHUNK = 2**24
"""The bytes that are written at once."""
DTYPES = {"uint8": "U8", "uint32": "U32", "int32": "I32", "int64": "I64"}
"""The names of types in a safetensors header."""


class OpenFile:
    """A file that is open as long as something refers to it, even when it has lost its name."""

    def __init__(self, name: str, descriptor: int) -> None:
        self.name = name
        self.descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)


@dataclass(frozen=True)
class StoredBytes:
    """A range of bytes of a file; a slice of it is read from the disk, and nothing is kept.

    Threads may read it at once.
    """

    file: OpenFile
    start: int
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, part: slice) -> Bytes:
        """Read a part; `DataError` where the file has become shorter or cannot be read."""
        first, last, _ = part.indices(self.length)
        wanted = bytearray(max(0, last - first))
        view = memoryview(wanted)
        done = 0
        try:
            while done < len(wanted):
                place = self.start + first + done
                count = os.preadv(self.file.descriptor, [view[done:]], place)
                if not count:
                    raise DataError(
                        f"{self.file.name} ends {len(wanted) - done} bytes too early: the stored "
                        "dataset is damaged"
                    )
                done += count
        except OSError as error:
            raise DataError(f"{self.file.name} cannot be read: {error}") from None
        return np.frombuffer(wanted, np.uint8)


def find_stored(path: Path) -> dict[str, tuple[StoredBytes, tuple[int, ...]]]:
    """The bytes and the shape of every tensor of a safetensors file, by name.

    The file has been opened by the library of safetensors before, which checks its header.
    """
    file = OpenFile(path.name, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    size = path.stat().st_size
    (length,) = struct.unpack("<Q", StoredBytes(file, 0, size)[:PREFIX_BYTES].tobytes())
    begin = PREFIX_BYTES + length
    header = json.loads(StoredBytes(file, PREFIX_BYTES, length)[:].tobytes())
    return {
        name: (
            StoredBytes(file, begin + entry["data_offsets"][0], _measure(entry)),
            tuple(entry["shape"]),
        )
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _measure(entry: Mapping[str, Any]) -> int:
    start, end = entry["data_offsets"]
    return int(end - start)


Content = np.ndarray[Any, Any] | StoredBytes
"""The content of a tensor that is written: an array, or bytes of another file."""


def write_tensors(path: Path, tensors: Mapping[str, Content], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file without holding more than `CHUNK` bytes of it at once.

    The library of safetensors takes every tensor as a whole.
    """
    # The widest types come first, so that every tensor is aligned.
    ordered = sorted(tensors.items(), key=lambda item: (-_find_type(item[1]).itemsize, item[0]))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, content in ordered:
        dtype = _find_type(content)
        shape = [len(content)] if isinstance(content, StoredBytes) else list(content.shape)
        start, end = end, end + dtype.itemsize * math.prod(shape)
        header[name] = {"dtype": DTYPES[dtype.name], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % PREFIX_BYTES)
    if len(text) > MOST_HEADER_BYTES:
        raise DataError(
            f"the names of classes and groups take {len(text)} bytes; at most "
            f"{MOST_HEADER_BYTES} are accepted"
        )
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, content in ordered:
            for part in _cut(content):
                file.write(part)


def _find_type(content: Content) -> np.dtype[Any]:
    return np.dtype(np.uint8) if isinstance(content, StoredBytes) else content.dtype


def _cut(content: Content) -> Iterable[memoryview]:
    """The bytes of a tensor in parts."""
    if isinstance(content, StoredBytes):
        for start in range(0, len(content), CHUNK):
            yield content[start : start + CHUNK].data
        return
    rows = max(1, CHUNK // max(1, content.itemsize * math.prod(content.shape[1:])))
    for start in range(0, len(content), rows):
        yield np.ascontiguousarray(content[start : start + rows]).data.cast("B")
