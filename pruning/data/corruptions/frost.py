"""Frost: ice crystals on the lens. Not canonical: the crystals are synthesised.

Source: Hendrycks and Dietterich, Benchmarking neural network robustness to common corruptions and
perturbations, ICLR 2019, which lays photographs of frosted glass over the image. They do not come
with this package; five synthesised sheets of the same brightness take their place, which change
images about as much, so that numbers for frost are near those of the archives and not the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pruning.data.corruptions import LUMA, Strength, Table, corruptions, round_to_grey_levels
from pruning.data.corruptions._plasma import draw_plasma
from pruning.data.keyed_random import Draws

SIDE = 512
"""The rows and columns of a sheet."""
LIGHT = (149.0, 205.0, 205.0, 153.0, 123.0)
"""The mean green level of each sheet, that of the photograph in its place."""
TINT = (-25.0, 0.0, 12.0)
"""The levels of red, green and blue relative to green: ice is bluish."""
CONTRAST = 25.0
"""The standard deviation of the green levels of a sheet."""
DECAY = 1.05
"""The decay of the plasma; little, so that it is rough."""


@lru_cache(maxsize=4)
def draw_sheets(device: torch.device) -> Tensor:
    """The five sheets, uint8 (5, 512, 512, 3): rough plasma with bright ridges.

    Each continues at its opposite edge. A ridge is where a second plasma passes through 1/2:
    (1 - |2 p - 1|)^4.

    >>> [
    ...     round(level)
    ...     for level in draw_sheets(torch.device("cpu")).double().mean((0, 1, 2)).tolist()
    ... ]
    [142, 167, 179]
    """
    draws = Draws.from_key(0, "frost sheets", indices=torch.arange(len(LIGHT)))
    ground = draw_plasma(SIDE, DECAY, draws).double().numpy()
    second = draw_plasma(SIDE, DECAY, draws, stream=1).double().numpy()
    ridges = (1.0 - np.abs(2.0 * second - 1.0)) ** 4
    field = _standardise(ground) + _standardise(ridges)
    levels = np.array(LIGHT)[:, None, None] + CONTRAST / np.sqrt(2.0) * field
    tinted = np.round(levels[..., None] + np.array(TINT))
    return torch.from_numpy(np.clip(tinted, 0, 255).astype(np.uint8)).to(device)


def _standardise(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Maps (N, H, W) shifted and scaled to mean 0 and standard deviation 1 each."""
    centred = maps - maps.mean((1, 2), keepdims=True)
    scaled: NDArray[np.float64] = centred / maps.std((1, 2), keepdims=True)
    return scaled


@corruptions.register("frost")
@dataclass(frozen=True)
class Frost:
    """a x + b f, f a random piece of one of five synthesised sheets of frost: not canonical.

    Constants: a, b, and the step on the sheet from one pixel of the image to the next, in pixels
    (CIFAR-10-C reduces its photographs to a fifth).

    >>> black = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    >>> Frost().apply(
    ...     black, (1, 0.2, 5), Draws.from_key(0, indices=torch.arange(1))
    ... ).max().item() <= 51
    True
    """

    cifar: ClassVar[Table] = (
        (1, 0.2, 5),
        (1, 0.3, 5),
        (0.9, 0.4, 5),
        (0.85, 0.4, 5),
        (0.75, 0.45, 5),
    )
    imagenet: ClassVar[Table] = (
        (1, 0.4, 1),
        (0.8, 0.6, 1),
        (0.7, 0.7, 1),
        (0.65, 0.7, 1),
        (0.6, 0.75, 1),
    )

    def apply(self, images: Tensor, strength: Strength, draws: Draws) -> Tensor:
        """Lay a piece of its own over each image; over grey images its luma."""
        image_weight, ice_weight, step = strength
        ice = draw_sheets(images.device)
        if images.shape[1] == 1:
            luma = ice.to(torch.float32) @ torch.tensor(LUMA, device=ice.device)
            ice = luma.round_().to(torch.uint8)[..., None]
        pieces = _cut_pieces(ice, images.shape, int(step), draws)
        levels = images.to(torch.float32).mul_(image_weight)
        return round_to_grey_levels(levels.add_(pieces.to(torch.float32).mul_(ice_weight)))


def _cut_pieces(ice: Tensor, shape: torch.Size, step: int, draws: Draws) -> Tensor:
    """A random piece of a random sheet for each image of a shape (N, C, H, W): uint8 as the ice."""
    height, width = shape[-2:]
    sheet = draws.integers(len(ice))
    top = draws.integers(SIDE, stream=1)
    left = draws.integers(SIDE, stream=2)
    rows = (top[:, None] + torch.arange(height, device=ice.device) * step) % SIDE
    columns = (left[:, None] + torch.arange(width, device=ice.device) * step) % SIDE
    # the numbers of the pixels, (N, H, W), where all sheets lie in one row
    places = (sheet[:, None, None] * SIDE + rows[:, :, None]) * SIDE + columns[:, None]
    pixels = ice.view(-1, ice.shape[-1]).index_select(0, places.view(-1))
    return pixels.view(*places.shape, -1).permute(0, 3, 1, 2)
