"""Allocation by an error bound: the budget goes where the bounds of SiPP and PFP ask for it.

Source: Baykal et al., SiPPing neural networks, 2019; Liebenwein, Baykal, Lang, Feldman and Rus,
Provable filter pruning for efficient neural networks, ICLR 2020; and the code released with them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pruning.allocations import allocations
from pruning.allocations._shares import LayerCapacities
from pruning.bounds.pfp import expect_channels
from pruning.bounds.sipp import spend_budget
from pruning.errors import ParameterError
from pruning.types import Budget, Keeps, Scores


@allocations.register("bound_optimal")
@dataclass(frozen=True)
class BoundOptimal:
    """The least error bound that the budget can buy; scores are sensitivities times their layer's
    constant.

    Layers of which single weights are scored minimise the sum of the relative errors of all sides
    (the weights of one sign in one filter) as SiPP does; layers scored by channel or filter have
    one relative error together, as small as it can be, as PFP does.

    >>> scores = {"a": torch.tensor([4.0, 4.0, 4.0, 4.0]), "b": torch.tensor([8.0, 0.1, 0.1, 0.1])}
    >>> BoundOptimal().allocate(scores, Budget(5, {"a": 4, "b": 4}))
    {'a': 4, 'b': 1}
    """

    def allocate(self, scores: Scores, budget: Budget) -> Keeps:
        """Weights: argmin sum_i l_i epsilon_i(m_i), l_i = 1 / sides of the layer. Channels: keep_l
        = E[distinct](epsilon).

        Counts are rounded by largest remainder. Sides are told by `budget.signs`; without them a
        filter is one side. Raises `ParameterError` for scores below 0, which are no sensitivities.
        """
        rooms = LayerCapacities.of(scores, budget)
        for name, score in scores.items():
            if bool((score[score > -math.inf] < 0).any()):
                raise ParameterError(
                    f"bound_optimal divides by sensitivities, and {name} has scores below 0: use "
                    "it with "
                    "sipp or pfp",
                    pointer="/allocation",
                )
        fine = {
            name: score
            for name, score in scores.items()
            if score.dim() > 1 and rooms.costs[name] == 1
        }
        shares = (
            _of_weights(fine, budget)
            if len(fine) == len(scores)
            else _of_channels(scores, rooms, budget.keep)
        )
        return rooms.rounded(
            {name: min(float(rooms.alive[name]), shares[name]) for name in scores}, budget.keep
        )


def _of_weights(scores: Scores, budget: Budget) -> dict[str, float]:
    """What the sides of each layer get together."""
    sums, weights, limits = [], [], []
    for name, score in scores.items():
        alive = score > -math.inf
        signs = budget.signs[name] if name in budget.signs else torch.ones_like(score)
        for side in (1, -1):
            mine = alive & (signs == side)
            sums.append(torch.where(mine, score, 0.0).double().flatten(1).sum(1).cpu())
            limits.append(mine.flatten(1).sum(1).double().cpu())
            weights.append(torch.full_like(sums[-1], 0.5 / len(score)))
    kept = spend_budget(torch.cat(sums), torch.cat(weights), torch.cat(limits), budget.keep)
    parts = torch.split(kept, [2 * len(score) for score in scores.values()])
    return {name: float(part.sum()) for name, part in zip(scores, parts, strict=True)}


def _of_channels(scores: Scores, rooms: LayerCapacities, keep: int) -> dict[str, float]:
    """The expected distinct channels, in weights, at the least epsilon that the budget affords."""
    alive: dict[str, Tensor] = {name: score[score > -math.inf] for name, score in scores.items()}

    def shares(log: float) -> dict[str, float]:
        return {
            name: rooms.costs[name] * expect_channels(score, math.exp(log))
            for name, score in alive.items()
        }

    small, large = -320.0, 700.0
    if sum(shares(small).values()) <= keep:
        return shares(small)
    for _ in range(100):
        middle = (small + large) / 2
        small, large = (small, middle) if sum(shares(middle).values()) <= keep else (middle, large)
    return shares(large)
