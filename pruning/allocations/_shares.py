"""Division of a budget over layers in given proportions, and rounding to whole units, for several
allocations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pruning.errors import BudgetError
from pruning.types import Budget, Keeps, Scores


@dataclass(frozen=True)
class LayerCapacities:
    """The cost of a unit of each layer in weights, and the number of weights there are to keep."""

    costs: Mapping[str, int]
    """The weights that one score stands for, by layer."""
    alive: Mapping[str, int]
    """The weights that are not pruned, by layer."""

    @staticmethod
    def from_scores(scores: Scores, budget: Budget) -> LayerCapacities:
        """Count what scores leave to keep; -inf marks what is pruned.

        Raises `BudgetError` where less remains than the budget keeps.
        """
        costs = {name: budget.sizes[name] // score.numel() for name, score in scores.items()}
        alive = {
            name: int((score > -math.inf).count_nonzero()) * costs[name]
            for name, score in scores.items()
        }
        if sum(alive.values()) < budget.keep:
            raise BudgetError(f"cannot keep {budget.keep} weights: {sum(alive.values())} remain")
        return LayerCapacities(costs, alive)

    def round_shares(self, shares: Mapping[str, float], keep: int) -> Keeps:
        """Round the shares to whole units by largest remainder.

        The counts are the nearest to the shares; their sum is `keep` where units allow it.
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
            # The layers that lost most by rounding down come first.
            for name in sorted(room, key=lambda layer: keeps[layer] - shares[layer]):
                if self.costs[name] <= left:
                    keeps[name] += self.costs[name]
                    left -= self.costs[name]
        return keeps


def find_dimensions(budget: Budget, name: str) -> tuple[int, ...]:
    """Return the dimensions of a layer's weight, or its size where its shape is not known."""
    try:
        return budget.shapes[name]
    except KeyError:
        return (budget.sizes[name],)


def share_proportionally(
    weights: Mapping[str, float], limits: Mapping[str, int], total: float
) -> dict[str, float]:
    """Divide `total` into shares c w_l, c the same for all, but none above its limit.

    What a layer cannot take goes to the others. A share at its limit is the limit itself, exactly.
    The sum is `total`, or that of the limits where it is less.

    >>> share_proportionally({"a": 1.0, "b": 1.0, "c": 2.0}, {"a": 1, "b": 9, "c": 9}, 10)
    {'a': 1, 'b': 3.0, 'c': 6.0}
    """
    shares: dict[str, float] = {}
    while len(shares) < len(weights):
        undecided = [name for name in weights if name not in shares]
        left = total - sum(shares.values())
        weight_sum = sum(weights[name] for name in undecided)
        proposed = {
            name: left * weights[name] / weight_sum if weight_sum else 0.0 for name in undecided
        }
        full = {name: limits[name] for name in undecided if proposed[name] >= limits[name]}
        # What full layers cannot take is divided again among the rest; without any, all is decided.
        shares |= full or proposed
    return {name: shares[name] for name in weights}
