"""The names of the corruptions, and pictures to corrupt."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

STANDARD = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
    "speckle_noise",
    "gaussian_blur",
    "spatter",
    "saturate",
)
VARIANTS = ("glass_blur_archive",)
"""Corruptions beside the standard ones, which are looked at only where they are named."""
DETERMINISTIC = (
    "brightness",
    "contrast",
    "defocus_blur",
    "gaussian_blur",
    "jpeg_compression",
    "pixelate",
    "saturate",
    "zoom_blur",
)
RANDOM = tuple(name for name in STANDARD if name not in DETERMINISTIC)


def pictures(number: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Draw smooth shapes and fine noise, some black, white and grey pixels among them."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((number, channels, height, width))
    shapes = 130 + 400 * ndimage.gaussian_filter(noise, (0, 0, 3, 3)) + 15 * noise
    shapes[:, :, : height // 4] += 150 * (rng.random((number, channels, 1, 1)) - 0.5)
    shapes[:, :, -2:, :3] = rng.choice([0, 128, 255], (number, 1, 1, 1))
    return torch.from_numpy(np.clip(shapes, 0, 255).astype(np.uint8))


def hwc(images: Tensor) -> np.ndarray:
    """Return images with their channels last."""
    return images.permute(0, 2, 3, 1).numpy()
