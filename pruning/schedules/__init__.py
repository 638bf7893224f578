"""Schedules: which density in which round, one file each."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from pruning.registry import Registry
from pruning.types import Schedule

Steps = Annotated[
    Literal["exponential", "linear"],
    Field(
        description="a constant fraction of the weights that remain in every stage, or a constant "
        "number"
    ),
]

schedules: Registry[Schedule] = Registry("schedule", __name__)


def keep_falling(start: float, between: Iterable[float], target: float) -> list[float]:
    """Keep the densities between `start` and `target` that fall strictly, and append the target.

    Where the stretch is shorter than its rounds, some of them are equal in float64; equal ones
    would be rounds that prune nothing, and a second round at the target would write a second
    checkpoint of the same name.

    >>> keep_falling(1.0, [1.0, 0.75, 0.75, 0.5], 0.5)
    [0.75, 0.5]
    """
    falling: list[float] = []
    last = start
    for density in between:
        if target < density < last:
            falling.append(density)
            last = density
    return [*falling, target]


def space_densities(start: float, target: float, number: int, kind: Steps) -> list[float]:
    """Compute d_i = start (target / start)^(i / number), or start + (target - start) i / number.

    i = 1 ... number; the first for `exponential`, the second for `linear`.

    >>> [round(density, 3) for density in space_densities(1.0, 0.125, 3, "exponential")]
    [0.5, 0.25, 0.125]
    >>> space_densities(1.0, 0.5, 2, "linear")
    [0.75, 0.5]
    """
    parts = (i / number for i in range(1, number))
    if kind == "linear":
        between = [start + (target - start) * part for part in parts]
    else:
        between = [start * (target / start) ** part for part in parts]
    return keep_falling(start, between, target)


__all__ = ["Steps", "keep_falling", "schedules", "space_densities"]
