"""A schedule of two rounds: halfway, then all the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pruning.schedules import schedules


@schedules.register("halfway")
@dataclass(frozen=True)
class Halfway:
    """Half of the weights that are to go are removed in a first round, the others in a second."""

    def densities(self, start: float, target: float) -> Sequence[float]:
        """d_1 = (start + target) / 2, d_2 = target."""
        return [(start + target) / 2, target]
