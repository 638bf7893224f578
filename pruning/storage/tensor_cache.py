"""Tensors that are dear to make, kept on disk by content for later jobs; the folder's size is
bounded.
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
    """SHA-256 of a tensor's type, shape and bytes and of what else goes into making what is kept
    (hex).

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
    """A folder of tensors by key; those not used for longest go where it grows beyond its limit.

    Several processes may share it: a file appears whole or not at all, and one that is damaged or
    gone is made again.
    """

    folder: Path
    limit_bytes: int

    def get(self, key: str, make: Callable[[], Tensor]) -> Tensor:
        """The tensor kept under the key, on the CPU, or else made and kept. A disk that fails costs
        time, not the job.
        """
        path = self.folder / f"{key}{SUFFIX}"
        with suppress(OSError, SafetensorError, KeyError):
            found = load_file(path)["tensor"]
            os.utime(path)
            return found
        made = make().cpu().contiguous()
        if made.numel() * made.element_size() <= self.limit_bytes:
            with suppress(OSError):
                self._keep(path, made)
        return made

    @property
    def size_bytes(self) -> int:
        """What it takes on disk."""
        return sum(size for _, size, _ in self._files())

    def _keep(self, path: Path, tensor: Tensor) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            save_file({"tensor": tensor}, aside)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        files = sorted(self._files())
        over = sum(size for _, size, _ in files) - self.limit_bytes
        for _, size, old in files:
            if over <= 0:
                break
            if old != path:
                old.unlink(missing_ok=True)
                over -= size

    def _files(self) -> list[tuple[float, int, Path]]:
        """Last use, size and path of everything kept."""
        found = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            with suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        return found
