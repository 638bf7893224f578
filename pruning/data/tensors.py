"""Data as a job uses them: splits of uint8 tensors, normalised and augmented batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pruning.data.arrays import IGNORED, Arrays
from pruning.data.groups import GroupColumn
from pruning.data.photo_images import PhotoImages
from pruning.data.photos import Photos
from pruning.data.reading_ahead import read_ahead
from pruning.data.subsets import draw_subset
from pruning.errors import DataError
from pruning.schemas.preprocessing import Preprocessing, Resizing, Source, build_preprocessing
from pruning.schemas.recipe import Limit
from pruning.seeding import generator

VAL_FRACTION = 0.1
PIXELS = 2**20
"""The most pixels in a batch of images with masks, which are large and answered pixel by pixel."""
MOMENT_IMAGES = 1024
MOMENT_IMAGES_WITH_MASKS = 16
"""The number of images whose values are summed at once in float64."""


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, C, H, W) and labels on one device.

    Labels are int64 (N,), or masks uint8 (N, H, W) in which 255 is ignored. Photos to train on, and
    images that do not fit into memory, are read and decoded when they are needed (`pixels`).
    """

    stored: Tensor | PhotoImages
    labels: Tensor
    indices: Tensor | None = None
    """The index of each image in the dataset's own split, int64 (N,); `None`: 0 ... N - 1."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> Split:
        stored = self.stored
        chosen = stored.choose(index) if isinstance(stored, PhotoImages) else stored[index]
        return Split(chosen, self.labels[index], self.dataset_indices[index])

    @property
    def images(self) -> Tensor:
        """All images as a network sees them, uint8 (N, C, H, W).

        For splits that fit into memory: a draw of some images of another split does.
        """
        return self.pixels(slice(None)) if isinstance(self.stored, PhotoImages) else self.stored

    @property
    def shape(self) -> tuple[int, int, int]:
        """The channels, height and width of the images."""
        _, channels, height, width = self.stored.shape
        return channels, height, width

    def pixels(self, index: Tensor | slice) -> Tensor:
        """Some of the images as a network sees them, uint8 (n, C, H, W)."""
        stored = self.stored
        return stored.decode(index) if isinstance(stored, PhotoImages) else stored[index]

    def iterate_pixels(self, size: int) -> Iterator[Tensor]:
        """All images in order, uint8 (n, C, H, W), `size` at a time."""
        parts = [slice(start, start + size) for start in range(0, len(self), size)]
        if isinstance(self.stored, PhotoImages):
            return read_ahead(self.pixels, parts)
        return map(self.pixels, parts)

    def decode(self) -> Split:
        """The split with all its photos decoded, to be looked at often."""
        return replace(self, stored=self.images)

    @property
    def dataset_indices(self) -> Tensor:
        """The index of each image in the dataset's own split, which limits and draws keep."""
        if self.indices is None:
            return torch.arange(len(self), device=self.labels.device)
        return self.indices

    def to(self, device: torch.device) -> Split:
        """The split on another device."""
        return Split(
            self.stored.to(device), self.labels.to(device), self.dataset_indices.to(device)
        )


@dataclass(frozen=True)
class ShiftedSplits:
    """Images of a shifted distribution: `val` decides, `test` reports."""

    val: Split
    test: Split

    def to(self, device: torch.device) -> ShiftedSplits:
        """The splits on another device."""
        return ShiftedSplits(self.val.to(device), self.test.to(device))


@dataclass(frozen=True, kw_only=True)
class Data:
    """The images of a job: `fit` trains, `val` decides, `test` reports."""

    fit: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    val_from_train: bool = True
    """Whether `val` was set aside from the images of `train`."""
    shifted: Mapping[str, ShiftedSplits] = field(default_factory=dict)
    """The images under shifts that the user supplied, by the name of the distribution."""
    stored_as: str | None = None
    """`JPEG` where all images come from such files."""
    notes: tuple[str, ...] = ()
    """Sentences that tell the user how the images were split."""
    source: Source = "dataset"
    """The source of `mean` and `std`."""
    resizing: Resizing | None = None
    """The change of size of every image; None where they are used in the size they come in."""
    size_source: Source | None = None
    """The source of `resizing`."""
    groups: Mapping[str, GroupColumn] = field(default_factory=dict)
    """The groups of all test images of the dataset, by the name of the column."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """The channels, height and width of the images."""
        return self.fit.shape

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of the images, as documents hold it."""
        constants = {"mean": self.mean, "std": self.std}
        return build_preprocessing(constants, self.source, self.resizing, self.size_source)

    @property
    def segmentation(self) -> bool:
        """Whether the labels are masks, the classes of the pixels."""
        return self.fit.labels.dim() == 3

    @property
    def sizes(self) -> dict[str, int]:
        """The number of images by split."""
        return {"fit": len(self.fit), "val": len(self.val), "test": len(self.test)}

    def test_groups(self, column: str) -> Tensor:
        """The groups of the test images of the job in a column, int64 (test images,); -1 for an
        image that is in none.
        """
        codes = torch.from_numpy(self.groups[column].codes.astype("int64"))
        return codes[self.test.dataset_indices.cpu()]

    def at_once(self, batch_size: int) -> int:
        """The number of images in a batch outside training.

        It is `batch_size`; with masks a batch has no more than `PIXELS` pixels, and at least one
        image.
        """
        if not self.segmentation:
            return batch_size
        _, height, width = self.shape
        return max(1, min(batch_size, PIXELS // (height * width)))

    def normalize(self, images: Tensor) -> Tensor:
        """(x / 255 - mean) / std per channel, float32, in the memory layout of `images`."""
        mean = torch.tensor(self.mean, device=images.device).view(1, -1, 1, 1) * 255
        std = torch.tensor(self.std, device=images.device).view(1, -1, 1, 1) * 255
        return images.to(torch.float32).sub_(mean).div_(std)

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised batches in order, without augmentation, of `at_once(batch_size)` images."""
        batch_size = self.at_once(batch_size)
        labels = torch.split(split.labels, batch_size)
        for pixels, batch_labels in zip(split.iterate_pixels(batch_size), labels, strict=False):
            yield self.normalize(pixels), batch_labels

    def to(self, device: torch.device) -> Data:
        """The data on another device."""
        return replace(
            self,
            fit=self.fit.to(device),
            val=self.val.to(device),
            test=self.test.to(device),
            shifted={name: splits.to(device) for name, splits in self.shifted.items()},
        )


def prepare(  # noqa: PLR0913 (all but the arrays are by keyword)
    arrays: Arrays,
    *,
    limit: Limit,
    seed: int,
    normalize: Mapping[str, Sequence[float]] | None,
    classes: Sequence[str] | None = None,
    source: Source = "given",
    resizing: Resizing | None = None,
    size_source: Source | None = None,
    decodes_evaluated: bool = True,
) -> Data:
    """The splits of a job: limited first, then `val` taken from `train` if the dataset has none.

    With a `resizing` all images are of its size: photos to train on are kept as they are, and
    decoded when they are needed; the others are decoded here, unless `decodes_evaluated` is False.

    Every draw is seeded and in proportion to the classes, or as `limit` says; images with masks
    have many classes each and are drawn plainly. Each class keeps an image to train on where there
    are enough, or a note says which have none. `classes` gives the model's order of the class
    names; labels are renumbered to it. `source` says who chose `normalize`; without it, mean and
    standard deviation are those of the dataset's whole train split (with masks, of the pixels that
    are not ignored, so that padding has no part), so that limits and seeds do not move them. Raises
    `DataError` where classes or channels do not fit, or training images are too few.
    """
    splits = {
        name: Split(hold_images(images, resizing), torch.from_numpy(arrays.labels[name]))
        for name, images in arrays.stored.items()
    }
    if normalize is None:
        mean, std = _compute_moments(splits["train"])
    else:
        mean = tuple(normalize["mean"])
        std = tuple(normalize["std"])
    names = arrays.classes if classes is None else tuple(classes)
    if names != arrays.classes:
        order = _match_classes(names, arrays.classes)
        splits = {
            name: Split(split.stored, renumber_labels(split.labels, order))
            for name, split in splits.items()
        }
    splits["train"] = _limit_split(splits["train"], "train", limit, seed)
    splits["test"] = _limit_split(splits["test"], "test", limit, seed)
    val_from_train = "val" not in splits
    if val_from_train:
        splits["val"], splits["train"] = _set_validation_aside(splits["train"], limit, seed)
    if len(mean) != arrays.shape[0] or len(std) != arrays.shape[0]:
        raise DataError(f"normalize has {len(mean)} channels, the images have {arrays.shape[0]}")
    return Data(
        fit=splits["train"],
        val=splits["val"].decode() if decodes_evaluated else splits["val"],
        test=splits["test"].decode() if decodes_evaluated else splits["test"],
        classes=names,
        mean=mean,
        std=std,
        val_from_train=val_from_train,
        stored_as=arrays.stored_as,
        source="dataset" if normalize is None else source,
        notes=_describe_untrained(splits["train"].labels, names),
        groups=arrays.groups,
        resizing=resizing,
        size_source=size_source,
    )


def hold_images(
    images: np.ndarray[Any, np.dtype[np.uint8]] | Photos, resizing: Resizing | None
) -> Tensor | PhotoImages:
    """Images as a split holds them; `DataError` for photos of any size without a resizing."""
    if isinstance(images, Photos):
        if resizing is None and not images.pixels:
            raise DataError("the photos differ in size; a preprocessing must say what to crop")
        return PhotoImages(images, resizing)
    if resizing is None:
        return torch.from_numpy(images)
    return PhotoImages(Photos.from_pixels(images), resizing)


def _match_classes(names: tuple[str, ...], dataset_names: tuple[str, ...]) -> Tensor:
    """The model's number of each class of the dataset; `DataError` where the classes differ."""
    if sorted(names) != sorted(dataset_names):
        raise DataError(
            f"the model's classes {list(names)} are not those of the dataset {list(dataset_names)}"
        )
    return torch.tensor([names.index(name) for name in dataset_names])


def _limit_split(split: Split, name: Literal["train", "test"], limit: Limit, seed: int) -> Split:
    """The split, or a seeded subset where it is larger than its limit."""
    most = limit.of(name, len(split))
    if most >= len(split):
        return split
    rng = generator(seed, "limit", name)
    chosen, _ = draw_subset(split.labels, most, limit.mix, rng, covers=name == "train")
    return split[chosen]


def _set_validation_aside(train: Split, limit: Limit, seed: int) -> tuple[Split, Split]:
    """A seeded validation split of the training images, and the rest of them."""
    size = count_validation(len(train))
    if size >= len(train):
        raise DataError(
            f"{len(train)} training images are too few to set {size} aside for validation"
        )
    rng = generator(seed, "val")
    chosen, rest = draw_subset(train.labels, size, limit.mix, rng, spares=True)
    return train[chosen], train[rest]


def _describe_untrained(labels: Tensor, classes: Sequence[str]) -> tuple[str, ...]:
    """A sentence on the classes that no image is left to train on; none where there are not any."""
    if labels.dim() > 1:
        return ()
    counts = torch.bincount(labels, minlength=len(classes)).tolist()
    missing = [name for name, count in zip(classes, counts, strict=True) if not count]
    if not missing:
        return ()
    listed = ", ".join(map(repr, missing[:5])) + (" ..." if len(missing) > 5 else "")
    return (
        f"{len(missing)} of {len(classes)} classes have no image left to train on ({listed}): take "
        "more training images, or bring validation images",
    )


def count_validation(images: int) -> int:
    """The number of training images set aside for validation: a tenth, and at least one.

    >>> count_validation(50_000), count_validation(3)
    (5000, 1)
    """
    return max(1, round(VAL_FRACTION * images))


def renumber_labels(labels: Tensor, order: Tensor) -> Tensor:
    """Labels of images or masks with class k called order[k]; ignored pixels stay ignored."""
    if labels.dim() == 1:
        return order[labels]
    table = torch.full((IGNORED + 1,), IGNORED, dtype=torch.uint8)
    table[: len(order)] = order.to(torch.uint8)
    return table[labels.long()]


def _compute_moments(split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and the standard deviation of each channel, of the pixels that are not ignored."""
    has_masks = split.labels.dim() == 3
    channels = split.shape[0]
    total = torch.zeros(channels, dtype=torch.float64)
    squares = torch.zeros_like(total)
    count = 0.0
    chunk_size = MOMENT_IMAGES_WITH_MASKS if has_masks else MOMENT_IMAGES
    for start in range(0, len(split), chunk_size):
        chunk = slice(start, start + chunk_size)
        labels = split.labels[chunk]
        values = split.pixels(chunk).to(torch.float64) / 255
        if has_masks:
            known = (labels != IGNORED)[:, None].double()
            count += float(known.sum())
            total += (values * known).sum((0, 2, 3))
            squares += (values**2 * known).sum((0, 2, 3))
        else:
            count += values.numel() / channels
            total += values.sum((0, 2, 3))
            squares += (values**2).sum((0, 2, 3))
    mean = total / count
    std = (squares / count - mean**2).clamp_min(0).sqrt().clamp_min(1e-3)
    return tuple(mean.tolist()), tuple(std.tolist())
