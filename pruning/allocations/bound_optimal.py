"""Allocation by an error bound: the budget goes where the bounds of SiPP and PFP ask for it.

Source: Baykal et al., SiPPing neural networks, 2019; Liebenwein, Baykal, Lang, Feldman and Rus,
Provable filter pruning for efficient neural networks, ICLR 2020; and the code released with them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pruning.allocations import allocations
from pruning.allocations._shares import LayerCapacities
from pruning.bounds.pfp import expect_channels
from pruning.bounds.sipp import spend_budget
from pruning.errors import ParameterError
from pruning.types import Budget, Keeps, Scores


@allocations.register("bound_optimal")
@dataclass(frozen=True)
class BoundOptimal:
    """The least error bound that the budget can buy, for scores that are sensitivities.

    Scores are sensitivities times their layer's constant. Layers with scores of single weights
    minimise the sum of the relative errors of all sides (the weights of one sign in one filter) as
    SiPP does; layers scored by channel or filter have one relative error together, as small as it
    can be, as PFP does.

    >>> scores = {"a": torch.tensor([4.0, 4.0, 4.0, 4.0]), "b": torch.tensor([8.0, 0.1, 0.1, 0.1])}
    >>> BoundOptimal().allocate(scores, Budget(5, {"a": 4, "b": 4}))
    {'a': 4, 'b': 1}
    """

    def allocate(self, scores: Scores, budget: Budget) -> Keeps:
        """Allocate at the least bound: over single weights' sides, or over channels.

        Weights: argmin sum_i l_i epsilon_i(m_i), l_i = 1 / sides of the layer. Channels: keep_l =
        E[distinct](epsilon). Counts are rounded by largest remainder. `budget.weights` distinguish
        the sides; without them a filter is one side. Raises `ParameterError` for scores below 0,
        which are not sensitivities.
        """
        capacities = LayerCapacities.from_scores(scores, budget)
        for name, score in scores.items():
            if bool((score[score > -math.inf] < 0).any()):
                raise ParameterError(
                    f"bound_optimal divides by sensitivities, and {name} has scores below 0: use "
                    "it with sipp or pfp",
                    pointer="/allocation",
                )
        single = all(
            score.dim() > 1 and capacities.costs[name] == 1 for name, score in scores.items()
        )
        if single:
            shares = _share_by_weights(scores, budget)
        else:
            shares = _share_by_channels(scores, capacities, budget.keep)
        limited = {name: min(float(capacities.alive[name]), shares[name]) for name in scores}
        return capacities.round_shares(limited, budget.keep)


def _share_by_weights(scores: Scores, budget: Budget) -> dict[str, float]:
    """Return how many weights each layer keeps, not yet rounded: the sum over its sides."""
    sensitivity_sums = []
    factors = []
    alive_counts = []
    for name, score in scores.items():
        alive = score > -math.inf
        signed = name in budget.weights
        weight = budget.weights[name] if signed else torch.ones_like(score)
        factor = 1 / (len(score) * (2 if signed else 1))  # l_i, one over the sides of the layer
        for side in (weight > 0, weight < 0):
            in_side = alive & side
            sums = torch.where(in_side, score, 0.0).double().flatten(1).sum(1).cpu()
            sensitivity_sums.append(sums)
            alive_counts.append(in_side.flatten(1).sum(1).double().cpu())
            factors.append(torch.full_like(sums, factor))
    kept = spend_budget(
        torch.cat(sensitivity_sums), torch.cat(factors), torch.cat(alive_counts), budget.keep
    )
    # Each layer has the positive sides of its filters, then the negative ones.
    parts = torch.split(kept, [2 * len(score) for score in scores.values()])
    return {name: float(part.sum()) for name, part in zip(scores, parts, strict=True)}


def _share_by_channels(scores: Scores, capacities: LayerCapacities, keep: int) -> dict[str, float]:
    """Compute the expected distinct channels, in weights, at the least epsilon within `keep`."""
    widest = max(score.numel() for score in scores.values())
    rows = torch.zeros(len(scores), widest, dtype=torch.float64)
    for row, score in zip(rows, scores.values(), strict=True):
        alive = score[score > -math.inf]
        row[: len(alive)] = alive  # a score of 0 is never drawn, and adds nothing
    costs = torch.tensor([capacities.costs[name] for name in scores], dtype=torch.float64)

    def compute_shares(log_epsilon: float) -> dict[str, float]:
        shares = costs * expect_channels(rows, math.exp(log_epsilon))
        return dict(zip(scores, shares.tolist(), strict=True))

    small = -320.0
    large = 700.0
    if sum(compute_shares(small).values()) <= keep:
        return compute_shares(small)
    loosest = compute_shares(large)
    if sum(loosest.values()) > keep:
        # A layer of one channel expects that one under any bound: all shares are cut alike.
        return {name: share * keep / sum(loosest.values()) for name, share in loosest.items()}
    for _ in range(100):
        middle = (small + large) / 2
        if sum(compute_shares(middle).values()) <= keep:
            large = middle
        else:
            small = middle
    return compute_shares(large)
