"""Allocation in proportion to the scores: as many draws as a layer's sensitivities ask for.

Source: Baykal, Liebenwein, Gilitschenski, Feldman and Rus, Data-dependent coresets for compressing
neural networks with applications to generalization bounds, ICLR 2019; that proportional draws give
the least bound is derived here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from pruning.allocations import allocations
from pruning.allocations._shares import LayerCapacities, share_proportionally
from pruning.errors import ParameterError
from pruning.types import Budget, Keeps, Scores


@allocations.register("proportional")
@dataclass(frozen=True)
class Proportional:
    """Every layer gets a share of the budget in proportion to the sum of its scores.

    Where the errors of layers fall as c_l / sqrt(m_l) and are to be equal, they are least for m_l
    in proportion to c_l^2; the scores of `corenet`, sensitivities times the square of their layer's
    constant, sum up to that. Sides (the weights of one sign in one filter) with a score get at
    least one weight, where the budget allows it: numbers of draws are rounded up.

    Each layer gets one weight, and of the other three 2.4 and 0.6:

    >>> import torch
    >>> scores = {"a": torch.tensor([4.0, 4.0, 4.0, 4.0]), "b": torch.tensor([1.0, 2.0, 1.0, 0.0])}
    >>> Proportional().allocate(scores, Budget(5, {"a": 4, "b": 4}))
    {'a': 3, 'b': 2}
    """

    def allocate(self, scores: Scores, budget: Budget) -> Keeps:
        """Allocate keep_l = sides_l + c (sum of scores), c the same for all layers.

        No layer gets more than the number of its positive scores. What a layer cannot take goes to
        the others; counts are rounded by largest remainder. `budget.weights` distinguish the sides;
        without them a layer is one. Raises `ParameterError` for scores below 0.
        """
        capacities = LayerCapacities.from_scores(scores, budget)
        for name, score in scores.items():
            if bool((score[score > -math.inf] < 0).any()):
                raise ParameterError(
                    f"proportional divides by sensitivities, and {name} has scores below 0: use "
                    "it with corenet, sipp or pfp",
                    pointer="/allocation",
                )
        sums = {name: float(score[score > 0].double().sum()) for name, score in scores.items()}
        limits = {
            name: int((score > 0).sum()) * capacities.costs[name] for name, score in scores.items()
        }
        least = {
            name: _count_sides(score, budget.weights.get(name)) * capacities.costs[name]
            for name, score in scores.items()
        }
        least_sum = sum(least.values())
        if least_sum > budget.keep:
            shares = share_proportionally(
                {name: float(count) for name, count in least.items()}, limits, budget.keep
            )
            return capacities.round_shares(shares, budget.keep)
        room = {name: limits[name] - least[name] for name in scores}
        spendable = min(budget.keep, sum(limits.values()))
        rest = share_proportionally(sums, room, spendable - least_sum)
        shares = {name: least[name] + rest[name] for name in scores}
        return capacities.round_shares(shares, budget.keep)


def _count_sides(score: Tensor, weight: Tensor | None) -> int:
    """Count the sides with a positive score."""
    positive = score > 0
    if weight is None or weight.shape != score.shape or score.dim() < 2:
        return int(bool(positive.any()))
    sides = (weight > 0, weight < 0)
    return sum(int((positive & side).flatten(1).any(1).sum()) for side in sides)
