"""Data as a job uses them: fit, val and test splits of uint8 tensors, normalised and augmented
batch by batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Generator, Tensor

from pruning.data.arrays import IGNORED, Arrays
from pruning.errors import DataError
from pruning.schemas.recipe import Limit
from pruning.seeding import generator

PADDING = 4
VAL_FRACTION = 0.1
PIXELS = 2**20
"""So many at most in a batch of images with masks: networks answer for every pixel, and such images
are large.
"""


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, C, H, W) and labels on one device: int64 (N,), or masks uint8 (N, H, W), 255
    ignored.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> Split:
        return Split(self.images[index], self.labels[index])

    def to(self, device: torch.device) -> Split:
        """The split on another device."""
        return Split(self.images.to(device), self.labels.to(device))


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
    """Whether `val` was set aside from `train` here."""
    shifted: Mapping[str, ShiftedSplits] = field(default_factory=dict)
    """By the name of the distribution, images under a shift that the user supplied."""
    stored_as: str | None = None
    """`JPEG` where all images come from such files."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return tuple(self.fit.images.shape[1:])  # type: ignore[return-value]

    @property
    def segmentation(self) -> bool:
        """Whether the labels are masks, the classes of the pixels."""
        return self.fit.labels.dim() == 3

    @property
    def sizes(self) -> dict[str, int]:
        """Images by split."""
        return {"fit": len(self.fit), "val": len(self.val), "test": len(self.test)}

    def at_once(self, batch_size: int) -> int:
        """How many images make a batch outside training: `batch_size`, and with masks no more than
        `PIXELS` pixels.
        """
        if not self.segmentation:
            return batch_size
        return max(1, min(batch_size, PIXELS // (self.shape[1] * self.shape[2])))

    def normalize(self, images: Tensor) -> Tensor:
        """(x / 255 - mean) / std per channel, float32, in the memory layout of `images`."""
        mean = torch.tensor(self.mean, device=images.device).view(1, -1, 1, 1) * 255
        std = torch.tensor(self.std, device=images.device).view(1, -1, 1, 1) * 255
        return images.to(torch.float32).sub_(mean).div_(std)

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised batches in order, without augmentation, of `at_once(batch_size)` images."""
        batch_size = self.at_once(batch_size)
        for start in range(0, len(split), batch_size):
            stop = start + batch_size
            yield self.normalize(split.images[start:stop]), split.labels[start:stop]

    def to(self, device: torch.device) -> Data:
        """The data on another device."""
        return replace(
            self,
            fit=self.fit.to(device),
            val=self.val.to(device),
            test=self.test.to(device),
            shifted={name: one.to(device) for name, one in self.shifted.items()},
        )


def prepare(
    arrays: Arrays,
    *,
    limit: Limit,
    seed: int,
    normalize: Mapping[str, Sequence[float]] | None,
    classes: Sequence[str] | None = None,
) -> Data:
    """The splits of a job: limits applied first, then `val` taken from `train` unless the dataset
    brings its own.

    Every draw is seeded, balanced over the classes unless `limit.stratify` is false; images with
    masks have no one class and are drawn plainly. `classes` gives the model's order of the class
    names; labels are renumbered to it. Without `normalize`, mean and standard deviation are those
    of the dataset's whole train split (with masks, of the pixels that are not ignored, so that
    padding has no part), so that limits and seeds do not move them.
    """
    splits = {
        name: Split(torch.from_numpy(arrays.images[name]), torch.from_numpy(arrays.labels[name]))
        for name in arrays.images
    }
    names = arrays.classes
    mean, std = (
        _moments(splits["train"])
        if normalize is None
        else (tuple(normalize["mean"]), tuple(normalize["std"]))
    )
    if classes is not None and tuple(classes) != names:
        if sorted(classes) != sorted(names):
            raise DataError(
                f"the model's classes {list(classes)} are not those of the dataset {list(names)}"
            )
        order = torch.tensor([list(classes).index(name) for name in names])
        splits = {
            name: Split(split.images, renumber_labels(split.labels, order))
            for name, split in splits.items()
        }
        names = tuple(classes)
    for name in ("train", "test"):
        most = limit.of(name, len(splits[name]))
        if most < len(splits[name]):
            chosen, _ = draw_subset(
                splits[name].labels, most, limit.stratify, generator(seed, "limit", name)
            )
            splits[name] = splits[name][chosen]
    train = splits["train"]
    val_from_train = "val" not in splits
    if val_from_train:
        size = count_validation(len(train))
        if size >= len(train):
            raise DataError(
                f"{len(train)} training images are too few to set {size} aside for validation"
            )
        chosen, rest = draw_subset(train.labels, size, limit.stratify, generator(seed, "val"))
        splits["val"], train = train[chosen], train[rest]
    if len(mean) != arrays.shape[0] or len(std) != arrays.shape[0]:
        raise DataError(f"normalize has {len(mean)} channels, the images have {arrays.shape[0]}")
    return Data(
        fit=train,
        val=splits["val"],
        test=splits["test"],
        classes=names,
        mean=mean,
        std=std,
        val_from_train=val_from_train,
        stored_as=arrays.stored_as,
    )


def count_validation(images: int) -> int:
    """How many of so many training images are set aside for validation: a tenth, one at least.

    >>> count_validation(50_000), count_validation(3)
    (5000, 1)
    """
    return max(1, round(VAL_FRACTION * images))


def augment(images: Tensor, mode: str, rng: Generator) -> Tensor:
    """Random crop after `PADDING` pixels of black on each side, and horizontal flip, each image for
    itself.

    uint8 (N, C, H, W) in and out; `mode` is `none`, `crop` or `crop_flip`. The result is laid out
    channels last.
    """
    return images if mode == "none" else _moved(images, *_places(images, mode, rng), 0)


def augment_split(split: Split, mode: str, rng: Generator) -> Split:
    """`augment` of the images, and the same of their masks, where padding is ignored; classes of
    images stay.
    """
    if mode == "none" or split.labels.dim() == 1:
        return Split(augment(split.images, mode, rng), split.labels)
    places = _places(split.images, mode, rng)
    return Split(
        _moved(split.images, *places, 0),
        _moved(split.labels[:, None], *places, IGNORED)[:, 0].contiguous(),
    )


def _places(images: Tensor, mode: str, rng: Generator) -> tuple[Tensor, Tensor]:
    """The rows and the columns of the padded images that each image takes, (N, H) and (N, W)."""
    n, _, height, width = images.shape
    offsets = torch.randint(0, 2 * PADDING + 1, (2, n, 1), generator=rng)
    rows = offsets[0] + torch.arange(height)
    columns = offsets[1] + torch.arange(width)
    if mode == "crop_flip":
        flip = torch.rand(n, 1, generator=rng) < 0.5
        columns = torch.where(flip, columns.flip(1), columns)
    return rows, columns


def _moved(images: Tensor, rows: Tensor, columns: Tensor, padding: int) -> Tensor:
    padded = torch.nn.functional.pad(images, (PADDING,) * 4, value=padding)
    index = torch.arange(len(images), device=images.device)[:, None, None]
    rows, columns = rows.to(images.device)[:, :, None], columns.to(images.device)[:, None, :]
    return padded.permute(0, 2, 3, 1)[index, rows, columns].permute(0, 3, 1, 2)


def resolve_augment(mode: str, shape: tuple[int, int, int]) -> str:
    """`auto` becomes `crop_flip` for colour images of 24 pixels and more, `none` otherwise (a
    flipped digit is none).
    """
    if mode != "auto":
        return mode
    return "crop_flip" if shape[0] == 3 and min(shape[1:]) >= 24 else "none"


def draw_subset(labels: Tensor, size: int, stratify: bool, rng: Generator) -> tuple[Tensor, Tensor]:
    """Indices of a random subset and of the rest, each in ascending order; balanced only where each
    label is one class.
    """
    order = torch.randperm(len(labels), generator=rng)
    if stratify and labels.dim() == 1:
        position = torch.empty(len(labels), dtype=torch.int64)
        for label in torch.unique(labels):
            members = order[labels[order] == label]
            position[members] = torch.arange(len(members))
        rank = torch.empty(len(labels), dtype=torch.int64)
        rank[order] = torch.arange(len(labels))
        order = (position * len(labels) + rank).argsort()
    return order[:size].sort().values, order[size:].sort().values


def renumber_labels(labels: Tensor, order: Tensor) -> Tensor:
    """Labels of images or masks with class k called order[k]; what is ignored stays so."""
    if labels.dim() == 1:
        return order[labels]
    table = torch.full((IGNORED + 1,), IGNORED, dtype=torch.uint8)
    table[: len(order)] = order.to(torch.uint8)
    return table[labels.long()]


def _moments(split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    images = split.images
    total = torch.zeros(images.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    n, chunk_size = 0.0, 1024 if split.labels.dim() == 1 else 16
    for chunk, labels in zip(
        torch.split(images, chunk_size), torch.split(split.labels, chunk_size), strict=True
    ):
        values = chunk.to(torch.float64) / 255
        if labels.dim() == 3:
            known = (labels != IGNORED)[:, None].double()
            n += float(known.sum())
            total += (values * known).sum((0, 2, 3))
            squares += (values**2 * known).sum((0, 2, 3))
            continue
        n += values.numel() / images.shape[1]
        total += values.sum((0, 2, 3))
        squares += (values**2).sum((0, 2, 3))
    mean = total / n
    std = (squares / n - mean**2).clamp_min(0).sqrt().clamp_min(1e-3)
    return tuple(mean.tolist()), tuple(std.tolist())
