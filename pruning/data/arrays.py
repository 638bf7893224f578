"""A decoded dataset as NumPy arrays, its checks and its file. Free of torch: uploads are read with this alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pruning.errors import DataError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Arrays:
    """Images uint8 (N, C, H, W) and labels int64 (N,) by split; `val` is optional.

    Without `train` these are images of a shifted distribution, of which any class may be missing.
    """

    images: Mapping[str, np.ndarray[Any, np.dtype[np.uint8]]]
    labels: Mapping[str, np.ndarray[Any, np.dtype[np.int64]]]
    classes: tuple[str, ...]
    stored_as: str | None = None
    """`JPEG` where all images were uploaded as such files."""

    def __post_init__(self) -> None:
        for split in ("train", "test") if "train" in self.images else ("test",):
            if split not in self.images or len(self.images[split]) == 0:
                raise DataError(f"the dataset has no {split} images")
        trains, shape = "train" in self.images, self.shape
        if 0 in shape:
            raise DataError(f"the images have no pixels: {shape}")
        if trains and len(self.classes) < 2:
            raise DataError(f"the dataset has {len(self.classes)} class; a classifier needs two at least")
        for split, images in self.images.items():
            labels = self.labels[split]
            if images.dtype != np.uint8 or images.ndim != 4:
                raise DataError(f"{split}: images must be uint8 (N, C, H, W), found {images.dtype} {images.shape}")
            if images.shape[1:] != shape:
                raise DataError(f"{split}: images of shape {images.shape[1:]} beside {shape}")
            if labels.shape != (len(images),):
                raise DataError(f"{split}: {len(images)} images but labels of shape {labels.shape}")
            if len(labels) and (labels.min() < 0 or labels.max() >= len(self.classes)):
                raise DataError(f"{split}: labels from {labels.min()} to {labels.max()}, but there are "
                                f"{len(self.classes)} classes: labels must lie in 0..{len(self.classes) - 1}")
            missing = sorted(set(range(len(self.classes))) - set(labels.tolist()))
            if missing and trains and split != "val":
                raise DataError(f"class {self.classes[missing[0]]!r} has no image in {split}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return tuple(self.images["train" if "train" in self.images else "test"].shape[1:])

    @property
    def counts(self) -> dict[str, int]:
        """Images by split."""
        return {split: len(self.images.get(split, ())) for split in SPLITS}

    def save(self, path: Path) -> None:
        """Write the arrays as safetensors."""
        tensors: dict[str, np.ndarray[Any, Any]] = {}
        for split, images in self.images.items():
            tensors[f"{split}_x"] = np.ascontiguousarray(images)
            tensors[f"{split}_y"] = self.labels[split]
        save_file(tensors, path, metadata={"secateur": json.dumps({"classes": self.classes, "stored_as": self.stored_as})})

    @staticmethod
    def load(path: Path) -> Arrays:
        """Read what `save` wrote."""
        try:
            with safe_open(path, framework="numpy") as file:
                known = json.loads(file.metadata()["secateur"])
                classes, stored_as = known["classes"], known.get("stored_as")
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"not a decoded dataset: {error}") from None
        splits = [split for split in SPLITS if f"{split}_x" in tensors]
        return Arrays({split: tensors[f"{split}_x"] for split in splits},
                      {split: tensors[f"{split}_y"] for split in splits}, tuple(classes), stored_as)
