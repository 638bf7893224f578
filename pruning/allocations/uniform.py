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
        """Allocate keep_l = d size_l with d = keep / total, in whole units of the score.

        Counts are rounded by largest remainder. No layer gets more than remains of it; what it
        cannot take goes to the others.
        """
        capacities = LayerCapacities.from_scores(scores, budget)
        sizes = {name: budget.sizes[name] for name in scores}
        shares = share_proportionally(sizes, capacities.alive, budget.keep)
        return capacities.round_shares(shares, budget.keep)
