"""A measured value with its interval and its unit."""

from __future__ import annotations

from typing import Literal

from pruning.schemas.base import Document

Unit = Literal[
    "fraction",
    "fraction_at_least",
    "fraction_at_most",
    "share",
    "points",
    "nats",
    "nats_difference",
    "correlation",
    "factor",
    "milliseconds",
    "seconds",
    "bytes",
    "number",
]
"""The unit of a value.

`fraction`: an error or accuracy, 0.18 is read as 18.0 %. `fraction_at_least`, `fraction_at_most`:
a promised limit of one, rounded down or up. `share`: a sparsity or density, read with
as many digits as it needs. `points`: a difference of two fractions, 0.012 is read as +1.2 pp.
`nats`: a loss. `nats_difference`: a change of a loss, read with its sign. `factor`: 2 is read as
2×.
"""


class Estimate(Document):
    """A measured value with its 95 % confidence interval and the number of samples behind it."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    unit: Unit | None = None
    """The unit of the value and its interval; `null` in reports of earlier versions."""

    def in_unit(self, unit: Unit) -> Estimate:
        """The same numbers in this unit."""
        return self.model_copy(update={"unit": unit})
