"""The size of a job, from which its cost is estimated before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from pruning.rounds.control_plan import plan_controls
from pruning.schemas.recipe import Recipe
from pruning.types import Shape


@dataclass(frozen=True, kw_only=True)
class JobSize:
    """The size of a job."""

    recipe: Recipe
    images: Mapping[str, int]
    """The number of images by split: `fit`, `val`, `test`."""
    shape: Shape
    macs: int
    """The multiply-adds of one image through the dense network."""
    shifted: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """The numbers of validation and test images of each shifted set."""
    segmentation: bool = False
    classes: int = 2
    layers: int = 1
    """The number of prunable weights, each of a layer."""

    @property
    def checkpoints(self) -> int:
        """The number of checkpoints: the targets of every criterion."""
        return len(self.recipe.targets.values) * len(self.recipe.criteria)

    @property
    def controls(self) -> int:
        """The number of dense controls that checkpoints are compared with."""
        return sum(control.measured for control in plan_controls(self.recipe))

    @property
    def networks(self) -> int:
        """The number of networks: the one given, a dense control, and the checkpoints."""
        return 2 + self.checkpoints

    @property
    def values(self) -> int:
        """The number of values of one image."""
        return math.prod(self.shape)


@runtime_checkable
class EstimatesUnits(Protocol):
    """An evaluation that estimates its work; the work of others is not counted."""

    def units(self, size: JobSize) -> int:
        """Estimate the work in forward passes of one image."""
