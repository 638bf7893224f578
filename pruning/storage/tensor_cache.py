"""Tensors that are expensive to compute, kept on disk by content for later jobs, in a folder of
bounded size.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

SUFFIX = ".safetensors"


def hash_content(tensor: Tensor, *others: str | int) -> str:
    """SHA-256 (hex) of a tensor's type, shape and bytes and of the `others` that a cached tensor is
    computed from.

    >>> import torch
    >>> hash_content(torch.zeros(2), "fog", 3) == hash_content(torch.zeros(2), "fog", 3)
    True
    >>> hash_content(torch.zeros(2), "fog", 3) == hash_content(torch.zeros(2), "fog", 2)
    False
    """
    digest = hashlib.sha256(repr((str(tensor.dtype), tuple(tensor.shape), others)).encode())
    digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class TensorCache:
    """A folder of tensors by key; where it grows beyond its limit, the tensors that were not used
    for longest are removed.

    Several processes may share it: a file appears whole or not at all, and a tensor whose file is
    damaged or gone is computed again.
    """

    folder: Path
    limit_bytes: int

    def get(self, key: str, make: Callable[[], Tensor]) -> Tensor:
        """The tensor kept under the key, on the CPU; without one it is made and kept.

        A disk that fails costs time, not the job.
        """
        path = self.folder / f"{key}{SUFFIX}"
        with suppress(OSError, SafetensorError, KeyError):
            tensor = load_file(path)["tensor"]
            os.utime(path)  # the file was used just now
            return tensor
        made = make().cpu().contiguous()
        if made.numel() * made.element_size() <= self.limit_bytes:
            with suppress(OSError):
                self._keep(path, made)
        return made

    @property
    def size_bytes(self) -> int:
        """The size of all kept tensors on disk."""
        return sum(size for _, size, _ in self._list_files())

    def _keep(self, path: Path, tensor: Tensor) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            save_file({"tensor": tensor}, aside)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        self._remove_oldest(spared=path)

    def _remove_oldest(self, spared: Path) -> None:
        """Remove the files that were not used for longest, down to the limit, but not `spared`."""
        files = sorted(self._list_files())
        excess = sum(size for _, size, _ in files) - self.limit_bytes
        for _, size, path in files:
            if excess <= 0:
                break
            if path != spared:
                path.unlink(missing_ok=True)
                excess -= size

    def _list_files(self) -> list[tuple[float, int, Path]]:
        """The time of the last use, size and path of every kept tensor."""
        files = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            with suppress(OSError):
                status = path.stat()
                files.append((status.st_mtime, status.st_size, path))
        return files
