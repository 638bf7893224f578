"""Data that are put together on the disk, in files that vanish with the last reference.

Free of torch.
"""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pruning.data.stored_bytes import OpenFile, StoredBytes


class Spool:
    """Bytes that are put one after the other into a file in a folder."""

    def __init__(self, folder: Path | None) -> None:
        descriptor, name = tempfile.mkstemp(prefix="secateur-", dir=folder)
        self._file = OpenFile(name, descriptor)
        self._length = 0
        Path(name).unlink()

    def append(self, content: bytes) -> None:
        """Put bytes behind those that are there."""
        view = memoryview(content)
        while view:
            view = view[os.write(self._file.descriptor, view) :]
        self._length += len(content)

    def finish(self) -> StoredBytes:
        """All the bytes so far."""
        return StoredBytes(self._file, 0, self._length)


def allocate(shape: tuple[int, ...], folder: Path | None) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """An array of zeros, uint8, that lies in a file in a folder.

    What is written to it takes memory only as long as nothing else needs that memory.
    """
    if not math.prod(shape):
        return np.zeros(shape, np.uint8)
    with tempfile.TemporaryFile(prefix="secateur-", dir=folder) as file:
        return np.memmap(file, np.uint8, "w+", shape=shape)
