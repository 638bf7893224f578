"""The training images of an epoch, corrupted and augmented batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial

from torch import Generator, Tensor

from pruning.data.augmentation import (
    RANDOM_RESIZED_CROP,
    SCALED_CROP,
    augment_batch,
    hold_photos,
    resolve_augment,
)
from pruning.data.corrupted import EpochCorruptions, corrupt_epoch
from pruning.data.keyed_random import Draws
from pruning.data.photo_images import CPU, PhotoImages
from pruning.data.reading_ahead import read_ahead
from pruning.data.scaled_crops import scale_and_crop
from pruning.data.tensors import Data
from pruning.errors import ParameterError
from pruning.schemas.training import Corrupt, ScaledCrop, Training


class TrainingImages:
    """The images that a training sees, from `data.fit`.

    Images of one size in memory are corrupted once an epoch; photos, and images that are read from
    the disk, in each batch, after their crop.
    """

    def __init__(self, data: Data, training: Training, seed: int, name: str) -> None:
        self.data = data
        self.corrupt: Corrupt | None = training.corrupt
        self.seed = seed
        self.name = name
        stored = data.fit.stored
        is_resized = isinstance(stored, PhotoImages) and stored.resizing is not None
        self.mode = resolve_augment(training.augment, data.shape, photos=is_resized)
        self.crops = self.mode == RANDOM_RESIZED_CROP
        if self.crops and data.segmentation:
            raise ParameterError(
                f"augment: {RANDOM_RESIZED_CROP} is for images without masks; take scaled_crop"
            )
        self.scaled_crop = _find_scaled_crop(data, training)
        self.photos: PhotoImages | None = None
        """The images that are read and decoded batch by batch; None for a tensor of pixels."""
        if self.crops:
            self.photos = hold_photos(data.fit).to(CPU)
        elif isinstance(stored, PhotoImages):
            self.photos = stored.to(CPU)

    def augment(
        self, pixels: Tensor, labels: Tensor, index: Tensor, epoch: int, rng: Generator
    ) -> tuple[Tensor, Tensor]:
        """The images of these numbers and their labels, changed at random."""
        if self.scaled_crop is None:
            return augment_batch(pixels, labels, self.mode, rng)
        draws = Draws.from_key(self.seed, self.name, SCALED_CROP, epoch, indices=index.cpu())
        sizes = self.scaled_crop
        return scale_and_crop(pixels, labels, draws, sides=sizes.sides, crop=sizes.crop)

    @contextmanager
    def start_epoch(self, epoch: int, batches: Sequence[Tensor]) -> Iterator[EpochImages]:
        """The images of an epoch, of which `batches` are going to be drawn: the numbers of images
        in each.
        """
        fit = self.data.fit
        names = (self.seed, self.name, epoch)
        if self.photos is None:
            assert isinstance(fit.stored, Tensor)
            whole = corrupt_epoch(fit.stored, self.corrupt, *names)
            yield EpochImages(self, epoch, whole, None, iter(()))
            return
        corruptions = None
        if self.corrupt is not None:
            corruptions = EpochCorruptions.draw(len(fit), self.corrupt, *names)
        with closing(read_ahead(partial(self._read, epoch), batches)) as pixels:
            yield EpochImages(self, epoch, None, corruptions, pixels)

    def _read(self, epoch: int, index: Tensor) -> Tensor:
        """The pixels of a batch, on the CPU; a crop depends on (seed, epoch, number) alone."""
        assert self.photos is not None
        if self.crops:
            return self.photos.crop_at_random(index, self.seed, self.name, "crop", epoch)
        return self.photos.decode(index)


@dataclass
class EpochImages:
    """The images of one epoch: `whole`, or those that are decoded when they are needed."""

    images: TrainingImages
    epoch: int
    whole: Tensor | None
    corruptions: EpochCorruptions | None
    read: Iterator[Tensor]
    """The pixels of the batches in order."""
    last: tuple[Tensor, Tensor] | None = None
    """The numbers and the pixels of the batch that was read last, which may be drawn again."""

    def draw_batch(self, index: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
        """The images and labels of these numbers, uint8 (n, C, H, W) and their classes or masks.

        They are those of the batch that was drawn last, or of the next one. Small images are
        augmented by the generator, photos by (seed, epoch, number).
        """
        owner, fit = self.images, self.images.data.fit
        at = index.to(fit.labels.device)
        labels = fit.labels[at]
        if self.whole is not None:
            return owner.augment(self.whole[at], labels, index, self.epoch, rng)
        if self.last is None or self.last[0] is not index:
            self.last = None
            self.last = index, next(self.read)
        pixels = self.last[1].to(at.device)
        if self.corruptions is not None:
            pixels = self.corruptions.apply(pixels, index)
        if owner.crops:
            return pixels, labels
        return owner.augment(pixels, labels, index, self.epoch, rng)


def _find_scaled_crop(data: Data, training: Training) -> ScaledCrop | None:
    """The sizes of scaled crops, where the training asks for them."""
    if training.augment != SCALED_CROP:
        return None
    if not data.segmentation:
        raise ParameterError(
            f"augment: {SCALED_CROP} is for images with masks; take random_resized_crop"
        )
    if training.scaled_crop is not None:
        return training.scaled_crop
    shorter = min(data.shape[1:])
    return ScaledCrop(sides=(max(1, shorter // 2), 2 * shorter), crop=shorter)
