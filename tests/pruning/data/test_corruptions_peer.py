"""Corruptions against a package that many use, with its constants (ImageNet's), where both have one
definition.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from pruning.data.corrupted import corrupt

imagecorruptions = pytest.importorskip(
    "imagecorruptions",
    exc_type=ImportError,
    reason=("imagecorruptions-imaug, or what OpenCV needs (libGL, GLib), is not installed"),
)
Array = np.ndarray[Any, Any]
DETERMINISTIC = (
    "contrast",
    "brightness",
    "saturate",
    "jpeg_compression",
    "defocus_blur",
    "gaussian_blur",
    "pixelate",
)
NOISE = ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise")


@pytest.fixture(scope="module")
def image() -> Array:
    """Smooth blotches of every colour, 96 x 128, with black and white among them."""
    draws = np.random.default_rng(0).normal(size=(96, 128, 3))
    return np.clip(gaussian_filter(draws, (3, 3, 0)) * 900 + 128, 0, 255).astype(np.uint8)


def both(image: Array, name: str, severity: int) -> tuple[Array, Array]:
    """The package's and ours, as signed numbers."""
    np.random.seed(severity)
    theirs = np.asarray(imagecorruptions.corrupt(image, corruption_name=name, severity=severity))
    ours = corrupt(
        torch.from_numpy(image).permute(2, 0, 1)[None], name, severity, constants="imagenet"
    )
    return theirs.astype(int), ours[0].permute(1, 2, 0).numpy().astype(int)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_corruptions_agree_to_one_grey_level(
    image: Array, name: str, severity: int
) -> None:
    theirs, ours = both(image, name, severity)
    assert np.abs(theirs - ours).max() <= 1


@pytest.mark.parametrize("severity", [1, 3, 5])
@pytest.mark.parametrize("name", NOISE)
def test_noise_agrees_in_its_moments(image: Array, name: str, severity: int) -> None:
    """36,864 values: the standard error of a mean is about 0.3 grey levels, that of a deviation
    about 0.5 %.
    """
    theirs, ours = (noisy - image for noisy in both(image, name, severity))
    assert ours.mean() == pytest.approx(theirs.mean(), abs=2.0)
    assert ours.std() == pytest.approx(theirs.std(), rel=0.06)
