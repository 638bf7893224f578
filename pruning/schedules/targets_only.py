"""A schedule with a single round at each target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pruning.schedules import schedules


@schedules.register("targets_only")
@dataclass(frozen=True)
class TargetsOnly:
    """A single round at each target, densest first, nothing between.

    >>> TargetsOnly().densities(1.0, 0.2)
    [0.2]
    """

    def densities(self, start: float, target: float) -> Sequence[float]:
        """Return the target alone."""
        return [target]
