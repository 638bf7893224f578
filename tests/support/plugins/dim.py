"""A corruption that dims images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pruning.data.corruptions import Strength, Table, corruptions, round_to_grey_levels
from pruning.data.keyed_random import Draws


@corruptions.register("dim")
@dataclass(frozen=True)
class Dim:
    """x' = f x with a factor f below 1: images taken at dusk."""

    cifar: ClassVar[Table] = (0.9,), (0.7,), (0.5,), (0.3,), (0.1,)
    imagenet: ClassVar[Table] = cifar

    def apply(self, images: Tensor, strength: Strength, draws: Draws) -> Tensor:
        """Alike for every image."""
        return round_to_grey_levels(images.float() * strength[0])
