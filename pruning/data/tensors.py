"""Data as a job uses them: fit, val and test splits of uint8 tensors, normalised and augmented batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Generator, Tensor

from pruning.data.arrays import Arrays
from pruning.errors import DataError
from pruning.schemas.recipe import Limit
from pruning.seeding import generator

PADDING = 4
VAL_FRACTION = 0.1


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, C, H, W) and labels int64 (N,), on one device."""

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


@dataclass(frozen=True)
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

    def normalize(self, images: Tensor) -> Tensor:
        """(x / 255 - mean) / std per channel, float32, in the memory layout of `images`."""
        mean = torch.tensor(self.mean, device=images.device).view(1, -1, 1, 1) * 255
        std = torch.tensor(self.std, device=images.device).view(1, -1, 1, 1) * 255
        return images.to(torch.float32).sub_(mean).div_(std)

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised batches in order, without augmentation."""
        for start in range(0, len(split), batch_size):
            stop = start + batch_size
            yield self.normalize(split.images[start:stop]), split.labels[start:stop]

    def to(self, device: torch.device) -> Data:
        """The data on another device."""
        return replace(self, fit=self.fit.to(device), val=self.val.to(device), test=self.test.to(device),
                       shifted={name: one.to(device) for name, one in self.shifted.items()})


def prepare(arrays: Arrays, *, limit: Limit, seed: int, normalize: Mapping[str, Sequence[float]] | None,
            classes: Sequence[str] | None = None) -> Data:
    """The splits of a job: limits applied first, then `val` taken from `train` unless the dataset brings its own.

    Every draw is seeded, balanced over the classes unless `limit.stratify` is false. `classes` gives the model's
    order of the class names; labels are renumbered to it. Without `normalize`, mean and standard deviation are those of the
    dataset's whole train split, so that limits and seeds do not move them.
    """
    splits = {name: Split(torch.from_numpy(arrays.images[name]), torch.from_numpy(arrays.labels[name]))
              for name in arrays.images}
    names = arrays.classes
    mean, std = _moments(splits["train"].images) if normalize is None \
        else (tuple(normalize["mean"]), tuple(normalize["std"]))
    if classes is not None and tuple(classes) != names:
        if sorted(classes) != sorted(names):
            raise DataError(f"the model's classes {list(classes)} are not those of the dataset {list(names)}")
        order = torch.tensor([list(classes).index(name) for name in names])
        splits = {name: Split(split.images, order[split.labels]) for name, split in splits.items()}
        names = tuple(classes)
    for name, most in (("train", limit.train), ("test", limit.test)):
        if most is not None and most < len(splits[name]):
            chosen, _ = draw(splits[name].labels, most, limit.stratify, generator(seed, "limit", name))
            splits[name] = splits[name][chosen]
    train = splits["train"]
    val_from_train = "val" not in splits
    if val_from_train:
        size = val_size(len(train))
        if size >= len(train):
            raise DataError(f"{len(train)} training images are too few to set {size} aside for validation")
        chosen, rest = draw(train.labels, size, limit.stratify, generator(seed, "val"))
        splits["val"], train = train[chosen], train[rest]
    if len(mean) != arrays.shape[0] or len(std) != arrays.shape[0]:
        raise DataError(f"normalize has {len(mean)} channels, the images have {arrays.shape[0]}")
    return Data(train, splits["val"], splits["test"], names, mean, std, val_from_train, stored_as=arrays.stored_as)


def val_size(images: int) -> int:
    """How many of so many training images are set aside for validation: a tenth, one at least.

    >>> val_size(50_000), val_size(3)
    (5000, 1)
    """
    return max(1, round(VAL_FRACTION * images))


def augment(images: Tensor, mode: str, rng: Generator) -> Tensor:
    """Random crop after `PADDING` pixels of black on each side, and horizontal flip, each image for itself.

    uint8 (N, C, H, W) in and out; `mode` is `none`, `crop` or `crop_flip`. The result is laid out channels last.
    """
    if mode == "none":
        return images
    n, _, height, width = images.shape
    offsets = torch.randint(0, 2 * PADDING + 1, (2, n, 1), generator=rng)
    rows = offsets[0] + torch.arange(height)
    columns = offsets[1] + torch.arange(width)
    if mode == "crop_flip":
        flip = torch.rand(n, 1, generator=rng) < 0.5
        columns = torch.where(flip, columns.flip(1), columns)
    padded = torch.nn.functional.pad(images, (PADDING,) * 4)
    index = torch.arange(n, device=images.device)[:, None, None]
    rows, columns = rows.to(images.device)[:, :, None], columns.to(images.device)[:, None, :]
    return padded.permute(0, 2, 3, 1)[index, rows, columns].permute(0, 3, 1, 2)


def resolve_augment(mode: str, shape: tuple[int, int, int]) -> str:
    """`auto` becomes `crop_flip` for colour images of 24 pixels and more, `none` otherwise (a flipped digit is none)."""
    if mode != "auto":
        return mode
    return "crop_flip" if shape[0] == 3 and min(shape[1:]) >= 24 else "none"


def draw(labels: Tensor, size: int, stratify: bool, rng: Generator) -> tuple[Tensor, Tensor]:
    """Indices of a random subset and of the rest, each in ascending order."""
    order = torch.randperm(len(labels), generator=rng)
    if stratify:
        position = torch.empty(len(labels), dtype=torch.int64)
        for label in torch.unique(labels):
            members = order[labels[order] == label]
            position[members] = torch.arange(len(members))
        rank = torch.empty(len(labels), dtype=torch.int64)
        rank[order] = torch.arange(len(labels))
        order = (position * len(labels) + rank).argsort()
    return order[:size].sort().values, order[size:].sort().values


def _moments(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    total = torch.zeros(images.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for chunk in torch.split(images, 1024):
        values = chunk.to(torch.float64) / 255
        total += values.sum((0, 2, 3))
        squares += (values**2).sum((0, 2, 3))
    n = images.numel() / images.shape[1]
    mean = total / n
    std = (squares / n - mean**2).clamp_min(0).sqrt().clamp_min(1e-3)
    return tuple(mean.tolist()), tuple(std.tolist())
