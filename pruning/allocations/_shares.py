"""One budget divided over layers in given proportions, and rounded to whole units: what allocations
share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pruning.errors import BudgetError
from pruning.types import Budget, Keeps, Scores


@dataclass(frozen=True)
class LayerCapacities:
    """By layer: what a unit costs in weights, and how many weights there are to keep."""

    costs: Mapping[str, int]
    alive: Mapping[str, int]

    @staticmethod
    def of(scores: Scores, budget: Budget) -> LayerCapacities:
        """Those of scores, -inf marking what is pruned; `BudgetError` where less remains than the
        budget keeps.
        """
        costs = {name: budget.sizes[name] // score.numel() for name, score in scores.items()}
        alive = {
            name: int((score > -math.inf).sum()) * costs[name] for name, score in scores.items()
        }
        if sum(alive.values()) < budget.keep:
            raise BudgetError(f"cannot keep {budget.keep} weights: {sum(alive.values())} remain")
        return LayerCapacities(costs, alive)

    def rounded(self, shares: Mapping[str, float], keep: int) -> Keeps:
        """Counts nearest to the shares in whole units, by largest remainder; their sum is `keep`
        where units allow it.
        """
        keeps = {
            name: min(self.alive[name], int(share) // self.costs[name] * self.costs[name])
            for name, share in shares.items()
        }
        left = keep - sum(keeps.values())
        while left > 0:
            room = [
                name
                for name, cost in self.costs.items()
                if cost <= left and keeps[name] + cost <= self.alive[name]
            ]
            if not room:
                break
            for name in sorted(room, key=lambda n: keeps[n] - shares[n]):
                if self.costs[name] <= left:
                    keeps[name] += self.costs[name]
                    left -= self.costs[name]
        return keeps


def layer_dimensions(budget: Budget, name: str) -> tuple[int, ...]:
    """Those of a layer's weight; of a layer whose shape is not known, its size."""
    try:
        return budget.shapes[name]
    except KeyError:
        return (budget.sizes[name],)


def share_proportionally(
    weights: Mapping[str, float], limits: Mapping[str, int], total: float
) -> dict[str, float]:
    """Shares c w_l of `total`, c the same for all, but none above its limit; what one cannot take
    goes to the others.

    A share at its limit is the limit itself, exactly. The sum is `total`, or that of the limits
    where it is less.

    >>> share_proportionally({"a": 1.0, "b": 1.0, "c": 2.0}, {"a": 1, "b": 9, "c": 9}, 10)
    {'a': 1, 'b': 3.0, 'c': 6.0}
    """
    shares: dict[str, float] = {}
    while len(shares) < len(weights):
        open_ = [name for name in weights if name not in shares]
        left, sum_ = total - sum(shares.values()), sum(weights[name] for name in open_)
        found = {name: left * weights[name] / sum_ if sum_ else 0.0 for name in open_}
        full = {name: limits[name] for name in open_ if found[name] >= limits[name]}
        shares |= full or found
    return {name: shares[name] for name in weights}
