"""Scaled and cropped images with masks, against torchvision's transforms with the same draws."""

from __future__ import annotations

import pytest
import torch

from pruning.architectures import _torchvision_shim  # noqa: F401 (goes before torchvision)
from pruning.data.arrays import IGNORED
from pruning.data.keyed_random import Draws
from pruning.data.scaled_crops import MIRRORS, PLACES, SIDES, scale_and_crop

# isort: split
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

SIDE_LIMITS = (6, 30)
CROP = 15


def make_pairs(count: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth images that differ everywhere, and masks that tell left from right."""
    rng = torch.Generator().manual_seed(4)
    small = torch.randint(0, 256, (count, 3, 4, 4), generator=rng, dtype=torch.uint8)
    images = functional.resize(small, [height, width], antialias=True)
    masks = (torch.arange(width) * 5 // width).expand(count, height, width).to(torch.uint8)
    return images, masks.clone()


@pytest.mark.parametrize(("height", "width"), [(20, 24), (24, 20), (16, 16)])
def test_each_pair_is_torchvisions_resized_mirrored_padded_and_cropped(
    height: int, width: int
) -> None:
    images, masks = make_pairs(40, height, width)
    draws = Draws.from_key(3, "crop", 0, indices=torch.arange(40))
    ours, labels = scale_and_crop(images, masks, draws, sides=SIDE_LIMITS, crop=CROP)
    shorter = SIDE_LIMITS[0] + draws.integers(25, 1, stream=SIDES)[:, 0]
    mirrored = draws.integers(2, 1, stream=MIRRORS)[:, 0]
    places = draws.integers(2**31, 2, stream=PLACES).double() / 2**31
    for number in range(40):
        image = functional.resize(images[number], [int(shorter[number])], antialias=True)
        mask = functional.resize(
            masks[number][None],
            [int(shorter[number])],
            interpolation=v2.InterpolationMode.NEAREST,
        )
        if mirrored[number]:
            image, mask = functional.hflip(image), functional.hflip(mask)
        padding = [0, 0, max(0, CROP - image.shape[2]), max(0, CROP - image.shape[1])]
        image = functional.pad(image, padding, fill=0)
        mask = functional.pad(mask, padding, fill=IGNORED)
        rows, columns = image.shape[1] - CROP + 1, image.shape[2] - CROP + 1
        top, left = int(places[number, 0] * rows), int(places[number, 1] * columns)
        image = functional.crop(image, top, left, CROP, CROP)
        mask = functional.crop(mask, top, left, CROP, CROP)
        difference = (ours[number].int() - image.int()).abs()
        assert int(difference.max()) <= 1, "rounding of equal averages alone"
        assert torch.equal(labels[number], mask[0])


def test_sides_places_and_mirrors_are_uniform() -> None:
    draws = Draws.from_key(0, "crop", 1, indices=torch.arange(20_000))
    shorter = draws.integers(25, 1, stream=SIDES)[:, 0]
    counts = torch.bincount(shorter, minlength=25)
    assert float(((counts - 800.0) ** 2 / 800).sum()) < 51.2, "chi-squared, 24 degrees, p = .001"
    mirrored = draws.integers(2, 1, stream=MIRRORS).double().mean()
    assert abs(float(mirrored) - 0.5) < 0.012
    places = draws.integers(2**31, 2, stream=PLACES).double() / 2**31
    assert torch.allclose(places.mean(0), torch.tensor(0.5, dtype=torch.float64), atol=0.008)


def test_the_padding_of_a_smaller_image_is_no_part_of_it() -> None:
    images, masks = make_pairs(8, 20, 24)
    padded = torch.full((8, 3, 40, 50), 99, dtype=torch.uint8)
    padded_masks = torch.full((8, 40, 50), IGNORED, dtype=torch.uint8)
    padded[:, :, :20, :24] = images
    padded_masks[:, :20, :24] = masks
    draws = Draws.from_key(3, "crop", 0, indices=torch.arange(8))
    plain = scale_and_crop(images, masks, draws, sides=SIDE_LIMITS, crop=CROP)
    for ours, expected in zip(
        scale_and_crop(padded, padded_masks, draws, sides=SIDE_LIMITS, crop=CROP),
        plain,
        strict=True,
    ):
        assert torch.equal(ours, expected)


def test_what_an_image_becomes_depends_on_its_own_number_alone() -> None:
    images, masks = make_pairs(8, 20, 24)
    whole = scale_and_crop(
        images,
        masks,
        Draws.from_key(3, "crop", 0, indices=torch.arange(8)),
        sides=SIDE_LIMITS,
        crop=CROP,
    )
    chosen = torch.tensor([5, 2])
    part = scale_and_crop(
        images[chosen],
        masks[chosen],
        Draws.from_key(3, "crop", 0, indices=chosen),
        sides=SIDE_LIMITS,
        crop=CROP,
    )
    assert all(torch.equal(ours[chosen], theirs) for ours, theirs in zip(whole, part, strict=True))


def test_a_mask_in_which_nothing_counts_stays_so() -> None:
    images, masks = make_pairs(2, 20, 24)
    masks[:] = IGNORED
    draws = Draws.from_key(3, "crop", 0, indices=torch.arange(2))
    _, labels = scale_and_crop(images, masks, draws, sides=SIDE_LIMITS, crop=CROP)
    assert bool((labels == IGNORED).all())
