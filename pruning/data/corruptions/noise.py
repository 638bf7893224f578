"""Noise of single values: Gaussian, shot, impulse and speckle noise.

Source: Hendrycks and Dietterich, Benchmarking neural network robustness to common corruptions and
perturbations, ICLR 2019. Intensities x are in [0, 1]; constants are theirs. Channels are drawn
independently.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
from scipy.special import ndtr, pdtrc
from torch import Tensor

from pruning.data.corruptions import Strength, Table, corruptions
from pruning.data.corruptions._noise_tables import (
    Floats,
    build_alias_table,
    build_table,
    draw_levels,
)
from pruning.data.keyed_random import Draws


def tabulate_gaussian(sigma: float) -> Floats:
    """The table of Gaussian noise: P(x + sigma N(0, 1) >= y) = Phi((x - y) / sigma)."""
    return build_table(lambda x, y: ndtr((x - y) / sigma))


def tabulate_shot(photons: float) -> Floats:
    """The table of shot noise: P(K / c >= y), K ~ Poisson(c x) photons, c at full intensity."""
    # The small number keeps a whole c y whole where the product is rounded above it.
    return build_table(lambda x, y: pdtrc(np.ceil(photons * y - 1e-9) - 1.0, photons * x))


def tabulate_impulse(amount: float) -> Floats:
    """The table of impulse noise: a share `amount` of the values becomes 0 or 1, half each."""
    return build_table(lambda x, y: amount / 2.0 + (1.0 - amount) * (x >= y))


def tabulate_speckle(sigma: float) -> Floats:
    """The table of speckle noise: P(x + sigma x N(0, 1) >= y) = Phi((x - y) / (sigma x)).

    Black stays black.
    """

    def survive(x: Floats, y: Floats) -> Floats:
        spread = sigma * np.where(x > 0.0, x, 1.0)
        return np.where(x > 0.0, ndtr((x - y) / spread), 0.0)

    return build_table(survive)


@cache
def _build_cached_table(tabulate: Callable[[float], Floats], constant: float) -> Tensor:
    """The alias table of a noise with a constant, made once."""
    return build_alias_table(tabulate(constant))


@corruptions.register("gaussian_noise")
@dataclass(frozen=True)
class GaussianNoise:
    """x + sigma N(0, 1): sensor noise in poor light; sigma as a part of full intensity.

    >>> import torch
    >>> grey = torch.full((1, 1, 64, 64), 128, dtype=torch.uint8)
    >>> noisy = (
    ...     GaussianNoise()
    ...     .apply(grey, (0.04,), Draws.from_key(0, indices=torch.arange(1)))
    ...     .double()
    ... )
    >>> round(noisy.std().item())
    10
    """

    cifar: ClassVar[Table] = (0.04,), (0.06,), (0.08,), (0.09,), (0.10,)
    imagenet: ClassVar[Table] = (0.08,), (0.12,), (0.18,), (0.26,), (0.38,)

    def apply(self, images: Tensor, strength: Strength, draws: Draws) -> Tensor:
        """Draw every value by itself."""
        return draw_levels(images, _build_cached_table(tabulate_gaussian, strength[0]), draws)


@corruptions.register("shot_noise")
@dataclass(frozen=True)
class ShotNoise:
    """Poisson(c x) / c: the discreteness of light, c photons at full intensity.

    >>> import torch
    >>> black = torch.zeros((1, 1, 2, 2), dtype=torch.uint8)
    >>> ShotNoise().apply(black, (3,), Draws.from_key(0, indices=torch.arange(1))).max().item()
    0
    """

    cifar: ClassVar[Table] = (500,), (250,), (100,), (75,), (50,)
    imagenet: ClassVar[Table] = (60,), (25,), (12,), (5,), (3,)

    def apply(self, images: Tensor, strength: Strength, draws: Draws) -> Tensor:
        """Draw every value by itself."""
        return draw_levels(images, _build_cached_table(tabulate_shot, strength[0]), draws)


@corruptions.register("impulse_noise")
@dataclass(frozen=True)
class ImpulseNoise:
    """Salt and pepper: a share of the values becomes black or white, as bit errors make them.

    >>> import torch
    >>> grey = torch.full((1, 1, 64, 64), 128, dtype=torch.uint8)
    >>> noisy = ImpulseNoise().apply(grey, (0.27,), Draws.from_key(0, indices=torch.arange(1)))
    >>> noisy.unique().tolist(), round((noisy != 128).double().mean().item(), 1)
    ([0, 128, 255], 0.3)
    """

    cifar: ClassVar[Table] = (0.01,), (0.02,), (0.03,), (0.05,), (0.07,)
    imagenet: ClassVar[Table] = (0.03,), (0.06,), (0.09,), (0.17,), (0.27,)

    def apply(self, images: Tensor, strength: Strength, draws: Draws) -> Tensor:
        """Draw every value by itself."""
        return draw_levels(images, _build_cached_table(tabulate_impulse, strength[0]), draws)


@corruptions.register("speckle_noise")
@dataclass(frozen=True)
class SpeckleNoise:
    """x + sigma x N(0, 1): noise that grows with the light.

    >>> import torch
    >>> dark = torch.full((1, 1, 64, 64), 50, dtype=torch.uint8)
    >>> noisy = (
    ...     SpeckleNoise().apply(dark, (0.2,), Draws.from_key(0, indices=torch.arange(1))).double()
    ... )
    >>> round(noisy.std().item())
    10
    """

    cifar: ClassVar[Table] = (0.06,), (0.1,), (0.12,), (0.16,), (0.2,)
    imagenet: ClassVar[Table] = (0.15,), (0.2,), (0.35,), (0.45,), (0.6,)

    def apply(self, images: Tensor, strength: Strength, draws: Draws) -> Tensor:
        """Draw every value by itself."""
        return draw_levels(images, _build_cached_table(tabulate_speckle, strength[0]), draws)
