"""Uniform allocation: every layer keeps the same fraction."""

from __future__ import annotations

from dataclasses import dataclass

from pruning.allocations import allocations
from pruning.allocations._shares import LayerCapacities, share_proportionally
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
        """keep_l = d size_l with d = keep / total, rounded by largest remainder, in whole units of
        the score.

        No layer gets more than remains of it; what it cannot take goes to the others.
        """
        rooms = LayerCapacities.of(scores, budget)
        sizes = {name: budget.sizes[name] for name in scores}
        return rooms.rounded(share_proportionally(sizes, rooms.alive, budget.keep), budget.keep)
