"""Datasets as a worker finds them: their arrays, and their rows and artifacts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pruning.data.arrays import Arrays
from tasks.artifacts import Artifacts, hash_file
from tasks.store import Store, assets, new_id
from tasks.store.tables import Dataset


def make_noise() -> Arrays:
    """Make images whose labels have nothing to do with them."""
    rng = np.random.default_rng(0)
    return Arrays(
        {
            "train": rng.integers(0, 255, (300, 1, 8, 8), np.uint8),
            "test": rng.integers(0, 255, (100, 1, 8, 8), np.uint8),
        },
        {"train": np.arange(300) % 10, "test": rng.permutation(np.arange(100) % 10)},
        tuple(map(str, range(10))),
    )


def store_dataset(store: Store, artifacts: Artifacts, folder: Path, arrays: Arrays) -> str:
    """Store the arrays as an uploaded dataset by way of a file in `folder`; return its id."""
    id = new_id("dst")
    path = folder / f"{id}.safetensors"
    arrays.save(path)
    key = f"datasets/{id}/data.safetensors"
    artifacts.put(key, path)
    with store.write() as session:
        assets.add(
            session,
            Dataset(
                id=id,
                project="default",
                name="digits",
                sha256=hash_file(path),
                size_bytes=path.stat().st_size,
                classes=list(arrays.classes),
                shape=list(arrays.shape),
                counts=arrays.counts,
                normalize=None,
                artifact=key,
            ),
        )
    path.unlink()
    return id
