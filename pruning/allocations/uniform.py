"""Uniform allocation: every layer keeps the same fraction."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pruning.allocations import allocations
from pruning.errors import BudgetError
from pruning.types import Budget, Keeps, Scores


@allocations.register("uniform")
@dataclass(frozen=True)
class Uniform:
    """Every layer keeps the same fraction of its weights; the counts add up to the budget exactly.

    >>> import torch
    >>> scores = {"a": torch.rand(10), "b": torch.rand(5)}
    >>> Uniform().allocate(scores, Budget(keep=7, sizes={"a": 10, "b": 5}))
    {'a': 5, 'b': 2}
    """

    def allocate(self, scores: Scores, budget: Budget) -> Keeps:
        """keep_l = d size_l with d = keep / total, rounded by largest remainder, in whole units of the score.

        No layer gets more than remains of it; what it cannot take goes to the others.
        """
        costs = {name: budget.sizes[name] // score.numel() for name, score in scores.items()}
        alive = {name: int((score > -math.inf).sum()) * costs[name] for name, score in scores.items()}
        if sum(alive.values()) < budget.keep:
            raise BudgetError(f"cannot keep {budget.keep} weights: {sum(alive.values())} remain")
        share = {name: budget.keep * budget.sizes[name] / budget.total for name in scores}
        keeps = {name: min(alive[name], int(share[name]) // costs[name] * costs[name]) for name in scores}
        left = budget.keep - sum(keeps.values())
        while left > 0:
            room = [name for name in scores if costs[name] <= left and keeps[name] + costs[name] <= alive[name]]
            if not room:
                break
            for name in sorted(room, key=lambda n: keeps[n] - share[n]):
                if costs[name] <= left:
                    keeps[name] += costs[name]
                    left -= costs[name]
        return keeps
