"""The registry of schedules: one file each, found by itself."""

from collections.abc import Iterable

from pruning.registry import Registry
from pruning.types import Schedule

schedules: Registry[Schedule] = Registry("schedule", __name__)


def falling(start: float, between: Iterable[float], target: float) -> list[float]:
    """The densities between `start` and `target` that fall strictly, and the target.

    Where the stretch is shorter than its rounds, float64 cannot tell some of them apart; equal ones would be rounds that
    prune nothing, and a second one at the target a second checkpoint of the same name.

    >>> falling(1.0, [1.0, 0.75, 0.75, 0.5], 0.5)
    [0.75, 0.5]
    """
    found: list[float] = []
    for density in between:
        if target < density < (found[-1] if found else start):
            found.append(density)
    return [*found, target]


__all__ = ["falling", "schedules"]
