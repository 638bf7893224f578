"""Global allocation: all layers compete for one budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pruning.allocations import allocations
from pruning.errors import BudgetError
from pruning.masks import select_top_together
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
        costs = [budget.sizes[name] // score.numel() for name, score in scores.items()]
        alive = sum(int((score > -torch.inf).count_nonzero()) for score in scores.values())
        if alive == 0:
            raise BudgetError("nothing is left to keep")
        if len(set(costs)) > 1:
            masks = _select_affordable(list(scores.values()), costs, budget.keep)
        elif costs[0] == 1 and alive < budget.keep:
            raise BudgetError(f"cannot keep {budget.keep} weights: {alive} remain")
        else:
            keep = min(alive, budget.keep // costs[0])
            masks = select_top_together(list(scores.values()), keep)
        return dict(zip(scores, masks, strict=True))


def _select_affordable(scores: Sequence[Tensor], costs: Sequence[int], left: int) -> list[Tensor]:
    """Select units in descending order of their scores while `left` weights pay for them.

    Each pass takes units while they fit, then drops all that cost too much.
    """
    flat = torch.cat([score.flatten() for score in scores])
    units = [score.numel() for score in scores]
    cost = torch.tensor(costs).repeat_interleave(torch.tensor(units)).to(flat.device)
    mask = torch.zeros_like(flat, dtype=torch.bool)
    order = flat.argsort(descending=True, stable=True)
    order = order[flat[order] > -torch.inf]
    while len(order):
        fits = int((cost[order].cumsum(0) <= left).count_nonzero())
        mask[order[:fits]] = True
        left -= int(cost[order[:fits]].sum())
        order = order[fits:][cost[order[fits:]] <= left]
    parts = torch.split(mask, units)
    return [part.reshape(score.shape) for part, score in zip(parts, scores, strict=True)]
