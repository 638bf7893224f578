"""Datasets that are read from their files, and an account of the images that are held at once."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pruning.data import photo_images
from pruning.data.arrays import Arrays
from pruning.data.photos import decode_all


@dataclass
class HeldImages:
    """Counts the decoded images that something still refers to."""

    now: int = 0
    most: int = 0
    ever: int = 0
    largest: int = 0
    """The most images that were asked for at once."""

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Count what photos and stored images are decoded to from here on."""

        def decode_and_count(*args: Any, **options: Any) -> Any:
            pixels = decode_all(*args, **options)
            self.now += len(pixels)
            self.ever += len(pixels)
            self.largest = max(self.largest, len(pixels))
            self.most = max(self.most, self.now)
            weakref.finalize(pixels, self._release, len(pixels))
            return pixels

        monkeypatch.setattr(photo_images, "decode_all", decode_and_count)

    def _release(self, count: int) -> None:
        self.now -= count


def make_pixels(train: int = 24, test: int = 10, side: int = 28) -> Arrays:
    """Images of one size, whose brightness tells their class."""
    rng = np.random.default_rng(1)
    images, labels = {}, {}
    for split, count in (("train", train), ("test", test)):
        labels[split] = np.arange(count) % 2
        noise = rng.integers(0, 120, (count, 3, side, side), np.uint8)
        images[split] = noise + (100 * labels[split]).astype(np.uint8)[:, None, None, None]
    return Arrays(images, labels, ("dark", "bright"))


def keep(arrays: Arrays, folder: Path) -> tuple[Arrays, Arrays]:
    """The dataset as it is read from a file into memory, and as it stays in the file."""
    path = folder / "data.safetensors"
    arrays.save(path)
    return Arrays.load(path), Arrays.load(path, in_memory=False)
