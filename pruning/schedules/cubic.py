"""The cubic schedule of gradual magnitude pruning: fast while weights are plenty, slow towards the
end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from pruning.schedules import keep_falling, schedules


@schedules.register("cubic")
@dataclass(frozen=True)
class Cubic:
    """Sparsity rises with a cubic that flattens at the target (Zhu and Gupta, 2017).

    `initial` is the sparsity s_i where the cubic begins, in a stretch that starts with the dense
    network; a target that does not lie above it has one round.

    >>> [round(d, 4) for d in Cubic(rounds=2).densities(1.0, 0.2)]
    [0.3, 0.2]
    >>> [round(d, 4) for d in Cubic(rounds=2, initial=0.4).densities(1.0, 0.2)]
    [0.25, 0.2]
    """

    rounds: Annotated[int, Field(ge=1, le=10_000)] = 4
    initial: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def densities(self, start: float, target: float) -> Sequence[float]:
        """Compute s_i = s_f + (s_0 - s_f) (1 - i / rounds)^3, i = 1 ... rounds, as densities 1 - s.

        s_f is the sparsity of the target; s_0 that of the start, or `initial` where the start is
        dense. The first round is one step beyond s_0, the last ends exactly at the target.
        """
        begin = 1.0 - self.initial if start == 1.0 else start
        between = (
            target + (begin - target) * (1 - i / self.rounds) ** 3 for i in range(1, self.rounds)
        )
        return keep_falling(start, between, target)
