"""How large a job is, and what its evaluations will cost, before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from pruning.errors import ParameterError
from pruning.evaluations import evaluations
from pruning.schemas.recipe import Method, Recipe
from pruning.trial import asked_only, fits_task
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
class Sized(Protocol):
    """An evaluation that says how much work it is; that of others is not counted."""

    def units(self, scale: Scale) -> int:
        """About how much, in forward passes of one image."""


def evaluation_units(scale: Scale) -> dict[str, int]:
    """The work of each evaluation of a job by name, in forward passes of one image; 0 where one does not say.

    Evaluations that share what they measure are counted as if each were alone. Raises `ParameterError` for parameters with
    which there is nothing to do.
    """
    wanted = scale.recipe.evaluations
    if wanted is None:
        kinds = {name: evaluations.get(name) for name in evaluations.names()}
        wanted = tuple(Method(name=name) for name, kind in kinds.items()
                       if not asked_only(kind) and fits_task(kind, segmentation=scale.segmentation))
    found = {}
    for index, method in enumerate(wanted):
        try:
            evaluation = evaluations.create(method.name, method.params)
            found[method.name] = int(evaluation.units(scale)) if isinstance(evaluation, Sized) else 0
        except ParameterError as error:
            raise ParameterError(error.message, pointer=f"/evaluations/{index}/params") from None
    return found
