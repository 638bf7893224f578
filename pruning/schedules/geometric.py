"""Iterative pruning: a constant fraction of what remains in every round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from pruning.schedules import keep_falling, schedules


@schedules.register("geometric")
@dataclass(frozen=True)
class Geometric:
    """Every round removes the same fraction of what remains; the last ends exactly at the target.

    >>> [round(d, 3) for d in Geometric(fraction=0.2).densities(1.0, 0.5)]
    [0.8, 0.64, 0.512, 0.5]
    """

    fraction: Annotated[float, Field(ge=0.001, lt=1)] = 0.2

    def densities(self, start: float, target: float) -> Sequence[float]:
        """Compute d_i = start (1 - fraction)^i, the last set to target.

        i = 1 ... ceil(ln(target / start) / ln(1 - fraction)).
        """
        # 1e-9 less, so that rounding does not add a round to a whole number of them.
        exact_rounds = math.log(target / start) / math.log(1 - self.fraction)
        rounds = max(1, math.ceil(exact_rounds - 1e-9))
        between = (start * (1 - self.fraction) ** i for i in range(1, rounds))
        return keep_falling(start, between, target)
