"""Frost: ice crystals on the lens. Not canonical: the crystals are synthesised.

Source: Hendrycks and Dietterich, Benchmarking neural network robustness to common corruptions and
perturbations, ICLR 2019, which lays photographs of frosted glass over the image. They do not come
with this package; five synthesised sheets of like brightness and contrast take their place, so that
numbers for frost compare with one another, not with those of the archives.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pruning.data.corruptions import LUMA, Strength, Table, corruptions, round_to_grey_levels
from pruning.data.corruptions._plasma import draw_plasma
from pruning.data.keyed_random import Draws

SIDE = 512
LIGHT = (105.0, 125.0, 145.0, 160.0, 205.0)
"""The mean green level of each sheet."""
TINT = (-25.0, 0.0, 12.0)
CONTRAST, DECAY = 25.0, 1.05


@lru_cache(maxsize=4)
def draw_sheets(device: torch.device) -> Tensor:
    """The five sheets, uint8 (5, 512, 512, 3), each continuing at the opposite edge: rough plasma
    with bright ridges.

    A ridge is where a second plasma passes through 1/2: (1 - |2 p - 1|)^4.

    >>> [
    ...     round(level)
    ...     for level in draw_sheets(torch.device("cpu")).double().mean((0, 1, 2)).tolist()
    ... ]
    [123, 148, 160]
    """
    draws = Draws.keyed(0, "frost sheets", indices=torch.arange(len(LIGHT)))
    ground = draw_plasma(SIDE, DECAY, draws).double().numpy()
    ridges = (
        1.0 - np.abs(2.0 * draw_plasma(SIDE, DECAY, draws, stream=1).double().numpy() - 1.0)
    ) ** 4
    field = sum(
        (part - part.mean((1, 2), keepdims=True)) / part.std((1, 2), keepdims=True)
        for part in (ground, ridges)
    )
    levels = np.array(LIGHT)[:, None, None] + CONTRAST / np.sqrt(2.0) * field
    return torch.from_numpy(
        np.clip(np.round(levels[..., None] + np.array(TINT)), 0, 255).astype(np.uint8)
    ).to(device)


@corruptions.register("frost")
@dataclass(frozen=True)
class Frost:
    """a x + b f, f a random piece of one of five sheets of frost; the sheets are synthesised, so
    this one is not canonical.

    Constants: a, b, how many pixels of the sheet one of the image steps over (CIFAR-10-C reduces
    its photographs to a fifth).

    >>> black = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    >>> Frost().apply(
    ...     black, (1, 0.2, 5), Draws.keyed(0, indices=torch.arange(1))
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
        """Each image under a piece of its own; grey images under its luma."""
        ice = draw_sheets(images.device)
        if images.shape[1] == 1:
            ice = (
                (ice.to(torch.float32) @ torch.tensor(LUMA, device=ice.device))
                .round_()
                .to(torch.uint8)[..., None]
            )
        height, width = images.shape[-2:]
        own, frozen, step = strength[0], strength[1], int(strength[2])
        sheet, top, left = (
            draws.integers(len(ice)),
            draws.integers(SIDE, stream=1),
            draws.integers(SIDE, stream=2),
        )
        rows = (top[:, None] + torch.arange(height, device=ice.device) * step) % SIDE
        columns = (left[:, None] + torch.arange(width, device=ice.device) * step) % SIDE
        places = (sheet[:, None, None] * SIDE + rows[:, :, None]) * SIDE + columns[:, None]
        pieces = (
            ice.view(-1, ice.shape[-1])
            .index_select(0, places.view(-1))
            .view(*places.shape, -1)
            .permute(0, 3, 1, 2)
        )
        return round_to_grey_levels(
            images.to(torch.float32).mul_(own).add_(pieces.to(torch.float32).mul_(frozen))
        )
