"""Sparsity that grows by equal steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from pruning.schedules import schedules, space_densities


@schedules.register("linear")
@dataclass(frozen=True)
class Linear:
    """Every round of a stretch removes the same number of weights.

    >>> [round(d, 3) for d in Linear(rounds=4).densities(1.0, 0.2)]
    [0.8, 0.6, 0.4, 0.2]
    """

    rounds: Annotated[int, Field(ge=1, le=10_000)] = 4

    def densities(self, start: float, target: float) -> Sequence[float]:
        """Compute d_i = start + (target - start) i / rounds, i = 1 ... rounds."""
        return space_densities(start, target, self.rounds, "linear")
