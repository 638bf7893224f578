"""Light and colour: brightness, contrast, saturation.

Source: Hendrycks and Dietterich, Benchmarking neural network robustness to common corruptions and
perturbations, ICLR 2019. In HSV, V = max(R, G, B), S = (V - min) / V. With hue and S kept, colours
scale with V; with hue and V kept, V - x scales with S: no conversion is needed. A grey image is one
whose three channels are equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruning.data.corruptions import Strength, Table, corruptions, round_to_grey_levels
from pruning.data.keyed_random import Draws


@corruptions.register("brightness")
@dataclass(frozen=True)
class Brightness:
    """V' = min(V + c, 1) in HSV: x V' / V, and V' where V = 0.

    >>> blue = torch.tensor([0, 0, 102], dtype=torch.uint8).view(1, 3, 1, 1)
    >>> Brightness().apply(
    ...     blue, (0.1,), Draws.from_key(0, indices=torch.arange(1))
    ... ).flatten().tolist()
    [0, 0, 127]
    """

    cifar: ClassVar[Table] = (0.05,), (0.1,), (0.15,), (0.2,), (0.3,)
    imagenet: ClassVar[Table] = (0.1,), (0.2,), (0.3,), (0.4,), (0.5,)

    def apply(self, images: Tensor, strength: Strength, draws: Draws) -> Tensor:
        """Brighten every image alike."""
        levels = images.to(torch.float32)
        value = levels.amax(1, keepdim=True)
        brighter = (value + 255.0 * strength[0]).clamp_(max=255.0)
        scaled = levels.mul_(brighter / value.clamp(min=1.0))
        return round_to_grey_levels(torch.where(value > 0.0, scaled, brighter))


@corruptions.register("contrast")
@dataclass(frozen=True)
class Contrast:
    """(x - mean) c + mean, the mean of each channel of each image.

    >>> image = torch.tensor([0, 200], dtype=torch.uint8).view(1, 1, 1, 2)
    >>> Contrast().apply(
    ...     image, (0.5,), Draws.from_key(0, indices=torch.arange(1))
    ... ).flatten().tolist()
    [50, 150]
    """

    cifar: ClassVar[Table] = (0.75,), (0.5,), (0.4,), (0.3,), (0.15,)
    imagenet: ClassVar[Table] = (0.4,), (0.3,), (0.2,), (0.1,), (0.05,)

    def apply(self, images: Tensor, strength: Strength, draws: Draws) -> Tensor:
        """Reduce the contrast of every image alike."""
        (factor,) = strength
        pixels = images.shape[-2] * images.shape[-1]
        total = images.flatten(2).sum(2, dtype=torch.int64)  # exact on every device
        mean = total.to(torch.float64).div_(pixels)[:, :, None, None]
        offset = (mean * (1.0 - factor)).to(torch.float32)
        return round_to_grey_levels((images.to(torch.float32) * factor).add_(offset))


@corruptions.register("saturate")
@dataclass(frozen=True)
class Saturate:
    """S' = clip(a S + b) in HSV: x' = V - (V - x) S' / S.

    Grey pixels count as red: R = V, G = B = V (1 - S'). Grey images have no colour to change and
    are left alone. Constants: a, b.

    >>> pink = torch.tensor([200, 100, 100], dtype=torch.uint8).view(1, 3, 1, 1)
    >>> Saturate().apply(
    ...     pink, (1.5, 0), Draws.from_key(0, indices=torch.arange(1))
    ... ).flatten().tolist()
    [200, 50, 50]
    """

    cifar: ClassVar[Table] = (0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)
    imagenet: ClassVar[Table] = (0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)

    def apply(self, images: Tensor, strength: Strength, draws: Draws) -> Tensor:
        """Change the saturation of every image alike."""
        if images.shape[1] == 1:
            return images.clone()
        factor, offset = strength
        levels = images.to(torch.float32)
        value = levels.amax(1, keepdim=True)
        spread = value - levels.amin(1, keepdim=True)
        # V S' = clip(a spread + b V, 0, V); each channel falls below V by its own part of that.
        new_spread = torch.minimum(spread * factor + value * offset, value)
        falls = (value - levels).mul_(new_spread / spread.clamp(min=1.0))
        if offset:  # grey pixels gain colour, and their hue is red
            red_falls = torch.tensor([0.0, 1.0, 1.0], device=images.device).view(1, 3, 1, 1)
            falls = torch.where(spread > 0.0, falls, new_spread * red_falls)
        return round_to_grey_levels(value - falls)
