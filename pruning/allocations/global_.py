"""Global allocation: all layers compete for one budget."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pruning.allocations import allocations
from pruning.errors import BudgetError
from pruning.masks import select_top
from pruning.types import Budget, Keeps, Masks, Scores


@allocations.register("global")
@dataclass(frozen=True)
class Global:
    """The highest scores of the whole network remain, wherever they are.

    A score that stands for several weights (a filter) costs as many. The best are taken in order;
    where they differ in cost, a unit that no longer fits is passed over for the next that does.

    >>> scores = {"a": torch.tensor([5.0, 4.0, 3.0]), "b": torch.tensor([1.0])}
    >>> Global().allocate(scores, Budget(keep=2, sizes={"a": 3, "b": 1}))
    {'a': 2, 'b': 0}
    >>> Global().allocate(scores, Budget(keep=8, sizes={"a": 9, "b": 2}))
    {'a': 6, 'b': 2}
    """

    def allocate(self, scores: Scores, budget: Budget) -> Keeps:
        """Allocate to each layer the number of its weights among the best `budget.keep`."""
        units = {
            name: int(mask.count_nonzero())
            for name, mask in self.select_masks(scores, budget).items()
        }
        return {
            name: count * (budget.sizes[name] // scores[name].numel())
            for name, count in units.items()
        }

    def select_masks(self, scores: Scores, budget: Budget) -> Masks:
        """Select the best scores of the network: masks shaped as the scores.

        They are what `top_k` keeps of each layer's share.
        """
        flat = torch.cat([score.flatten() for score in scores.values()])
        units = [score.numel() for score in scores.values()]
        costs = [budget.sizes[name] // count for name, count in zip(scores, units, strict=True)]
        alive = int((flat > -torch.inf).count_nonzero())
        if alive == 0:
            raise BudgetError("nothing is left to keep")
        if len(set(costs)) > 1:
            cost_of_unit = torch.tensor(costs).repeat_interleave(torch.tensor(units))
            mask = _select_affordable(flat, cost_of_unit.to(flat.device), budget.keep)
        elif costs[0] == 1 and alive < budget.keep:
            raise BudgetError(f"cannot keep {budget.keep} weights: {alive} remain")
        else:
            mask = select_top(flat, min(alive, budget.keep // costs[0]))
        parts = torch.split(mask, units)
        return {
            name: part.reshape(scores[name].shape) for name, part in zip(scores, parts, strict=True)
        }


def _select_affordable(flat: Tensor, cost: Tensor, left: int) -> Tensor:
    """Select units in descending order of their scores while `left` weights pay for them.

    Each pass takes units while they fit, then drops all that cost too much.
    """
    mask = torch.zeros_like(flat, dtype=torch.bool)
    order = flat.argsort(descending=True, stable=True)
    order = order[flat[order] > -torch.inf]
    while len(order):
        fits = int((cost[order].cumsum(0) <= left).count_nonzero())
        mask[order[:fits]] = True
        left -= int(cost[order[:fits]].sum())
        order = order[fits:][cost[order[fits:]] <= left]
    return mask
