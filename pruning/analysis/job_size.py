"""How large a job is, and what its evaluations will cost, before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from pruning.schemas.recipe import Recipe
from pruning.types import Shape


@dataclass(frozen=True, kw_only=True)
class JobSize:
    """The size of a job."""

    recipe: Recipe
    images: Mapping[str, int]
    """By split: `fit`, `val`, `test`."""
    shape: Shape
    macs: int
    """Multiply-adds of one image through the dense network."""
    shifted: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Validation and test images of each shifted set."""
    segmentation: bool = False

    @property
    def checkpoints(self) -> int:
        """Targets of every criterion."""
        return len(self.recipe.targets.sparsity) * len(self.recipe.criteria)

    @property
    def networks(self) -> int:
        """The network as given, the dense control, and the checkpoints."""
        return 2 + self.checkpoints

    @property
    def values(self) -> int:
        """Of one image."""
        return math.prod(self.shape)


@runtime_checkable
class EstimatesUnits(Protocol):
    """An evaluation that says how much work it is; that of others is not counted."""

    def units(self, scale: JobSize) -> int:
        """About how much, in forward passes of one image."""
