"""How large a job is, and what its evaluations will cost, before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from pruning.evaluations import evaluations
from pruning.schemas.recipe import Method, Recipe
from pruning.trial import asked_only
from pruning.types import Shape


@dataclass(frozen=True)
class Scale:
    """The size of a job."""

    recipe: Recipe
    images: Mapping[str, int]
    """By split: `fit`, `val`, `test`."""
    shape: Shape
    macs: int
    """Multiply-adds of one image through the dense network."""
    shifted: Mapping[str, int] = field(default_factory=dict)
    """Test images of each shifted set."""

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
class Sized(Protocol):
    """An evaluation that says how much work it is; that of others is not counted."""

    def units(self, scale: Scale) -> int:
        """About how much, in forward passes of one image."""


def evaluation_units(scale: Scale) -> dict[str, int]:
    """The work of each evaluation of a job by name, in forward passes of one image; 0 where one does not say.

    Evaluations that share what they measure are counted as if each were alone.
    """
    wanted = scale.recipe.evaluations
    if wanted is None:
        wanted = tuple(Method(name=name) for name in evaluations.names() if not asked_only(evaluations.get(name)))
    found = {}
    for method in wanted:
        evaluation = evaluations.create(method.name, method.params)
        found[method.name] = int(evaluation.units(scale)) if isinstance(evaluation, Sized) else 0
    return found
