"""Global allocation: all layers compete for one budget."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pruning.allocations import allocations
from pruning.errors import BudgetError
from pruning.masks import top
from pruning.types import Budget, Keeps, Scores


@allocations.register("global")
@dataclass(frozen=True)
class Global:
    """The highest scores of the whole network remain, wherever they are.

    A score that stands for several weights (a filter) costs as many; the best that fit are taken in order.

    >>> scores = {"a": torch.tensor([5.0, 4.0, 3.0]), "b": torch.tensor([1.0])}
    >>> Global().allocate(scores, Budget(keep=2, sizes={"a": 3, "b": 1}))
    {'a': 2, 'b': 0}
    """

    def allocate(self, scores: Scores, budget: Budget) -> Keeps:
        """keep_l = the number of weights of layer l among the best `budget.keep` of the network."""
        flat = torch.cat([score.flatten() for score in scores.values()])
        costs = [budget.sizes[name] // score.numel() for name, score in scores.items()]
        if int((flat > -torch.inf).sum()) == 0:
            raise BudgetError("nothing is left to keep")
        if set(costs) == {1}:
            if int((flat > -torch.inf).sum()) < budget.keep:
                raise BudgetError(f"cannot keep {budget.keep} weights: fewer remain")
            mask = top(flat, budget.keep)
        else:
            mask = _affordable(flat, torch.cat([torch.full((score.numel(),), cost, device=flat.device) for score, cost
                                                in zip(scores.values(), costs, strict=True)]), budget.keep)
        kept = [int(part.sum()) for part in torch.split(mask, [score.numel() for score in scores.values()])]
        return {name: units * cost for name, units, cost in zip(scores, kept, costs, strict=True)}


def _affordable(flat: torch.Tensor, cost: torch.Tensor, keep: int) -> torch.Tensor:
    order = flat.argsort(descending=True, stable=True)
    taken = (cost[order].cumsum(0) <= keep) & (flat[order] > -torch.inf)
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask[order[taken]] = True
    return mask
