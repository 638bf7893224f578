"""A decoded dataset as NumPy arrays, its checks and its file.

Free of torch: uploads are read with this alone.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError, safe_open

from pruning.data.groups import CLUSTER, PREFIX, GroupColumn
from pruning.data.photos import Photos
from pruning.data.stored_bytes import Content, find_stored, write_tensors
from pruning.errors import DataError

SPLITS = ("train", "val", "test")
IGNORED = 255
"""The value of a pixel in a mask that counts in no loss and in no error."""
ImageShape = tuple[int, int | None, int | None]
PHOTO_PARTS = ("content", "starts", "sizes", "checksums", "names", "name_starts")
"""The arrays of photos in the file of a dataset; files of 0.1 have the first three."""
READ_LATER = {f"{split}_{part}" for split in SPLITS for part in ("x", "content", "names")}
"""The tensors that may stay in the file of a dataset until they are needed."""


@dataclass(frozen=True)
class Arrays:
    """Images uint8 (N, C, H, W) or photos that differ in size, and labels, by split; `val` is
    optional.

    Labels are int64 (N,), or uint8 (N, H, W) for segmentation. Without `train` these are images of
    a shifted distribution, of which any class may be missing.
    """

    images: Mapping[str, np.ndarray[Any, np.dtype[np.uint8]]]
    labels: Mapping[str, np.ndarray[Any, Any]]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """Sentences that tell the user how the dataset was read."""
    stored_as: str | None = None
    """`JPEG` where all images were uploaded as such files."""
    groups: Mapping[str, GroupColumn] = field(default_factory=dict)
    """The groups of the test images, by the name of the column."""
    photos: Mapping[str, Photos] = field(default_factory=dict)
    """The photos, where `images` is empty: files, or images of one size that stay on the disk."""

    def __post_init__(self) -> None:
        trains = "train" in self.stored
        for split in ("train", "test") if trains else ("test",):
            if split not in self.stored or len(self.stored[split]) == 0:
                raise DataError(f"the dataset has no {split} images")
        if 0 in self.shape:
            raise DataError(f"the images have no pixels: {self.shape}")
        if trains:
            self._check_class_count()
        for split in self.images:
            self._check_images(split)
        for split in self.stored:
            if self.task == "segmentation":
                self._check_masks(split)
            else:
                self._check_labels(split, trains)

    def _check_class_count(self) -> None:
        """Raise `DataError` where there are less than two classes."""
        if len(self.classes) >= 2:
            return
        message = f"the dataset has {len(self.classes)} class; a classifier needs at least two"
        if self.task == "segmentation":
            message += f" ({IGNORED} in a mask is not a class: it is ignored)"
        raise DataError(message)

    def _check_images(self, split: str) -> None:
        """Raise `DataError` unless the images are uint8 (N, C, H, W), in all splits of one size."""
        images = self.images[split]
        if images.dtype != np.uint8 or images.ndim != 4:
            raise DataError(
                f"{split}: images must be uint8 (N, C, H, W), found {images.dtype} {images.shape}"
            )
        if images.shape[1:] != self.shape:
            raise DataError(f"{split}: images of shape {images.shape[1:]} beside {self.shape}")

    def _check_labels(self, split: str, trains: bool) -> None:
        """Raise `DataError` unless each image has one class, and each class an image to train."""
        labels = self.labels[split]
        images = self.stored[split]
        if labels.shape != (len(images),):
            raise DataError(f"{split}: {len(images)} images but labels of shape {labels.shape}")
        if len(labels) and (labels.min() < 0 or labels.max() >= len(self.classes)):
            raise DataError(
                f"{split}: labels from {labels.min()} to {labels.max()}, but there are "
                f"{len(self.classes)} classes: labels must lie in 0..{len(self.classes) - 1}"
            )
        missing = sorted(set(range(len(self.classes))) - set(labels.tolist()))
        if missing and trains and split != "val":
            raise DataError(f"class {self.classes[missing[0]]!r} has no image in {split}")

    def _check_masks(self, split: str) -> None:
        """Raise `DataError` unless the masks have the images' size and hold known classes.

        A class may be missing, but an image may be ignored altogether only in training, and not all
        of them.
        """
        masks = self.labels[split]
        wanted = (len(self.stored[split]), *self.shape[1:])
        if masks.dtype != np.uint8 or masks.shape != wanted:
            raise DataError(
                f"{split}: {wanted[0]} images of {wanted[1:]} pixels but masks "
                f"{masks.dtype} of shape {masks.shape}; masks must be uint8 (N, H, W)"
            )
        known = masks != IGNORED
        if known.any() and masks[known].max() >= len(self.classes):
            raise DataError(
                f"{split}: value {masks[known].max()} in a mask, but there are "
                f"{len(self.classes)} classes: values must lie in 0..{len(self.classes) - 1}, or "
                f"be {IGNORED}, which is ignored"
            )
        empty = np.flatnonzero(~known.any((1, 2)))
        if len(empty) and (split != "train" or len(empty) == len(masks)):
            purpose = "learn" if split == "train" else "measure"
            raise DataError(
                f"{split}: all pixels of image {empty[0]} are {IGNORED}, which is ignored: there "
                f"is nothing to {purpose}"
            )

    @property
    def task(self) -> Literal["classification", "segmentation"]:
        """The task of the labels, which tell a class of each image or of each pixel."""
        return "segmentation" if self.labels[self._main_split].ndim == 3 else "classification"

    @property
    def stored(self) -> Mapping[str, np.ndarray[Any, np.dtype[np.uint8]] | Photos]:
        """The images or the photos by split."""
        return self.photos or self.images

    @property
    def shape(self) -> ImageShape:
        """The channels, height and width of the images; None where they differ in size."""
        images = self.stored[self._main_split]
        if isinstance(images, Photos):
            return images.channels, *images.one_size
        channels, height, width = images.shape[1:]
        return channels, height, width

    def describe_sizes(self) -> dict[str, Any] | None:
        """The smallest and the largest height and width of photos that differ in size, and the
        bytes of each split; None for images of one size.
        """
        if not self.photos or any(photos.pixels for photos in self.photos.values()):
            return None
        sizes = np.concatenate([photos.own_sizes for photos in self.photos.values()])
        return {
            "smallest": sizes.min(0).tolist(),
            "largest": sizes.max(0).tolist(),
            "bytes": {split: len(photos.content) for split, photos in self.photos.items()},
        }

    @property
    def _main_split(self) -> str:
        """The split by which the shape and the task of the dataset are known."""
        return "train" if "train" in self.stored else "test"

    @property
    def counts(self) -> dict[str, int]:
        """The number of images by split."""
        return {split: len(self.stored.get(split, ())) for split in SPLITS}

    @property
    def guessing_error(self) -> float | None:
        """The error of the best constant answer on the test images, 1 - 1/classes where they have
        one class; None for masks.
        """
        if self.task == "segmentation":
            return None
        labels = self.labels["test"]
        error = 1 - float(np.bincount(labels).max()) / len(labels)
        return error or 1 - 1 / len(self.classes)

    def group_counts(self) -> dict[str, dict[str, int]]:
        """The number of test images by column and group, without that of clusters."""
        return {name: column.counts() for name, column in self.groups.items() if name != CLUSTER}

    def save(self, path: Path) -> None:
        """Write the arrays as a safetensors file, one tensor at a time.

        Not for arrays that were read with their images left on the disk: those are in such a file
        already.
        """
        assert not any(photos.pixels for photos in self.photos.values())
        tensors: dict[str, Content] = {}
        for split, images in self.images.items():
            tensors[f"{split}_x"] = images
            checksums = [zlib.crc32(np.ascontiguousarray(image).data) for image in images]
            tensors[f"{split}_checksums"] = np.array(checksums, np.uint32)
        for split, photos in self.photos.items():
            for part in PHOTO_PARTS:
                content = getattr(photos, part)
                if content is not None:
                    tensors[f"{split}_{part}"] = content
        for split in self.stored:
            tensors[f"{split}_y"] = self.labels[split]
        metadata: dict[str, Any] = {"classes": self.classes}
        if self.photos:
            metadata["channels"] = self.shape[0]
        if self.notes:
            metadata["notes"] = self.notes
        if self.stored_as:
            metadata["stored_as"] = self.stored_as
        if self.groups:
            metadata["groups"] = {name: column.values for name, column in self.groups.items()}
        for name, column in self.groups.items():
            tensors[PREFIX + name] = column.codes
        write_tensors(path, tensors, {"secateur": json.dumps(metadata)})

    @staticmethod
    def load(path: Path, *, in_memory: bool = True) -> Arrays:
        """Read the arrays that `save` wrote; `DataError` for any other file.

        Unless they are wanted in memory, images stay in the file, which must not change, and are
        read one by one: all are then `photos`.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                about = json.loads(file.metadata()["secateur"])
                classes = tuple(about["classes"])
                notes = tuple(about.get("notes", ()))
                stored = {} if in_memory else find_stored(path)
                tensors: dict[str, Any] = {
                    key: stored[key][0]
                    if key in stored and key in READ_LATER
                    else file.get_tensor(key)
                    for key in file.keys()  # noqa: SIM118
                }
                groups = {
                    name: GroupColumn(tuple(values), tensors[PREFIX + name])
                    for name, values in about.get("groups", {}).items()
                }
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"not a decoded dataset: {error}") from None
        splits = [split for split in SPLITS if f"{split}_y" in tensors]
        photos = {}
        for split in splits:
            parts: dict[str, Any] = {part: tensors.get(f"{split}_{part}") for part in PHOTO_PARTS}
            if "channels" in about:
                photos[split] = Photos(channels=about["channels"], split=split, **parts)
            elif not in_memory:
                content, shape = stored[f"{split}_x"]
                photos[split] = Photos.from_stored_pixels(content, shape, split, parts["checksums"])
        return Arrays(
            images={} if photos else {split: tensors[f"{split}_x"] for split in splits},
            labels={split: tensors[f"{split}_y"] for split in splits},
            classes=classes,
            notes=notes,
            stored_as=about.get("stored_as"),
            groups=groups,
            photos=photos,
        )
