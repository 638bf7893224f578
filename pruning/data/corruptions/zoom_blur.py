"""Zoom blur: the camera moves towards the scene.

Source: Hendrycks and Dietterich, Benchmarking neural network robustness to common corruptions and
perturbations, ICLR 2019.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pruning.data.corruptions import Strength, Table, corruptions, round_to_grey_levels
from pruning.data.corruptions._linear import apply_separable, build_zooming, measure_enlargement
from pruning.data.keyed_random import Draws


@corruptions.register("zoom_blur")
@dataclass(frozen=True)
class ZoomBlur:
    """(x + sum of x enlarged by f) / (n + 1) over n factors f from 1 to below `stop`, by `step`.

    Each factor enlarges the middle of the image, with linear interpolation.

    >>> point = torch.tensor([0, 0, 100, 0], dtype=torch.uint8).view(1, 1, 1, 4)
    >>> ZoomBlur().apply(
    ...     point, (2.5, 1.0), Draws.from_key(0, indices=torch.arange(1))
    ... ).flatten().tolist()
    [0, 11, 88, 33]
    """

    cifar: ClassVar[Table] = (1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)
    imagenet: ClassVar[Table] = (1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)

    def apply(self, images: Tensor, strength: Strength, draws: Draws) -> Tensor:
        """Blur every image alike; factors that enlarge a small image alike are one product."""
        height, width = images.shape[-2:]
        stop, step = strength
        factors = np.arange(1.0, stop, step).tolist()
        enlargements = Counter(
            (measure_enlargement(height, factor), measure_enlargement(width, factor))
            for factor in factors
        )
        levels = images.to(torch.float64)
        total = levels.clone()
        for (down, across), times in enlargements.items():
            rows = build_zooming(height, *down)
            columns = build_zooming(width, *across)
            total.add_(apply_separable(levels, rows, columns), alpha=times)
        return round_to_grey_levels(total.div_(len(factors) + 1))
