"""The training images of an epoch, corrupted and augmented batch by batch."""

from __future__ import annotations

from dataclasses import dataclass

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
from pruning.data.photo_images import PhotoImages
from pruning.data.scaled_crops import scale_and_crop
from pruning.data.tensors import Data
from pruning.errors import ParameterError
from pruning.schemas.training import Corrupt, ScaledCrop, Training


class TrainingImages:
    """The images that a training sees, from `data.fit`.

    Images of one size are corrupted once an epoch; photos in each batch, after their crop.
    """

    def __init__(self, data: Data, training: Training, seed: int, name: str) -> None:
        self.data = data
        self.corrupt: Corrupt | None = training.corrupt
        self.seed = seed
        self.name = name
        self.mode = resolve_augment(
            training.augment, data.shape, photos=isinstance(data.fit.stored, PhotoImages)
        )
        self.scaled_crop = _find_scaled_crop(data, training)
        self.photos: PhotoImages | None = None
        if self.mode == RANDOM_RESIZED_CROP:
            if data.segmentation:
                raise ParameterError(
                    f"augment: {RANDOM_RESIZED_CROP} is for images without masks; take scaled_crop"
                )
            self.photos = hold_photos(data.fit)

    def augment(
        self, pixels: Tensor, labels: Tensor, index: Tensor, epoch: int, rng: Generator
    ) -> tuple[Tensor, Tensor]:
        """The images of these numbers and their labels, changed at random."""
        if self.scaled_crop is None:
            return augment_batch(pixels, labels, self.mode, rng)
        draws = Draws.from_key(self.seed, self.name, SCALED_CROP, epoch, indices=index.cpu())
        sizes = self.scaled_crop
        return scale_and_crop(pixels, labels, draws, sides=sizes.sides, crop=sizes.crop)

    def start_epoch(self, epoch: int) -> EpochImages:
        """The images of an epoch."""
        fit = self.data.fit
        whole = None
        corruptions = None
        if isinstance(fit.stored, PhotoImages) or self.photos is not None:
            if self.corrupt is not None:
                corruptions = EpochCorruptions.draw(
                    len(fit), self.corrupt, self.seed, self.name, epoch
                )
        else:
            whole = corrupt_epoch(fit.stored, self.corrupt, self.seed, self.name, epoch)
        return EpochImages(self, epoch, whole, corruptions)


@dataclass(frozen=True)
class EpochImages:
    """The images of one epoch: `whole`, or those that are decoded when they are needed."""

    images: TrainingImages
    epoch: int
    whole: Tensor | None
    corruptions: EpochCorruptions | None

    def draw_batch(self, index: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
        """The images and labels of these numbers, uint8 (n, C, H, W) and their classes or masks.

        Small images are augmented by the generator, photos by (seed, epoch, number).
        """
        owner, fit = self.images, self.images.data.fit
        at = index.to(fit.labels.device)
        labels = fit.labels[at]
        if self.whole is not None:
            return owner.augment(self.whole[at], labels, index, self.epoch, rng)
        if owner.photos is None:
            pixels = fit.pixels(index)
        else:
            pixels = owner.photos.crop_at_random(index, owner.seed, owner.name, "crop", self.epoch)
        if self.corruptions is not None:
            pixels = self.corruptions.apply(pixels, index)
        if owner.photos is not None:
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
