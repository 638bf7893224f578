"""An allocation that serves the first layers first."""

from __future__ import annotations

from dataclasses import dataclass

from pruning.allocations import allocations
from pruning.types import Budget, Keeps, Scores


@allocations.register("first_layers")
@dataclass(frozen=True)
class FirstLayers:
    """Every layer keeps all that is alive until the budget is spent, in the network's order."""

    def allocate(self, scores: Scores, budget: Budget) -> Keeps:
        """The number of weights that each layer keeps, at least one where the budget allows it."""
        left = budget.keep - len(scores)
        keeps: Keeps = {}
        for name, score in scores.items():
            alive = int((score > -float("inf")).sum())
            share = min(max(left, 0), alive - 1)
            keeps[name] = share + 1
            left -= share
        return keeps
