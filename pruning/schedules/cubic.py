"""The cubic schedule of gradual magnitude pruning: fast while weights are plenty, slow towards the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from pruning.schedules import falling, schedules


@schedules.register("cubic")
@dataclass(frozen=True)
class Cubic:
    """Sparsity rises with a cubic that flattens at the target (Zhu and Gupta, 2017).

    >>> [round(d, 4) for d in Cubic(rounds=2).densities(1.0, 0.2)]
    [0.3, 0.2]
    """

    rounds: Annotated[int, Field(ge=1, le=10_000)] = 4

    def densities(self, start: float, target: float) -> Sequence[float]:
        """d_i = target + (start - target) (1 - i / rounds)^3, i = 1 ... rounds."""
        between = (target + (start - target) * (1 - i / self.rounds) ** 3 for i in range(1, self.rounds))
        return falling(start, between, target)
