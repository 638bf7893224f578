"""Uniform+ allocation: uniform, but for the two layers that suffer most.

Source: Gale, Elsen and Hooker, The state of sparsity in deep neural networks, 2019.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pruning.allocations import allocations
from pruning.allocations._shares import LayerCapacities, find_dimensions, share_proportionally
from pruning.types import Budget, Keeps, Scores

LAST = 0.2
"""The last layer keeps this fraction of its weights, if not more."""


@allocations.register("uniform_plus")
@dataclass(frozen=True)
class UniformPlus:
    """Uniform, but the first convolution stays dense and the last layer keeps at least 20 %.

    >>> import torch
    >>> shapes = {"stem": (2, 1, 1, 1), "conv": (10, 10, 1, 1), "fc": (5, 10)}
    >>> scores = {name: torch.rand(shape) for name, shape in shapes.items()}
    >>> sizes = {name: score.numel() for name, score in scores.items()}
    >>> UniformPlus().allocate(scores, Budget(20, sizes, shapes))
    {'stem': 2, 'conv': 8, 'fc': 10}
    """

    def allocate(self, scores: Scores, budget: Budget) -> Keeps:
        """Allocate keep_l = d' size_l with one d' for all layers but two.

        These are the first convolution and, where d' < 0.2, the last layer. First and last are
        those of the network, in its order; a layer that is not among the scores is dense or left
        out already. A network without convolutions keeps no layer dense. Where the two want so much
        that the other layers would have less than a unit each, both are scaled down by the same
        factor until these have that many to share: at extreme sparsities nothing is dense, and
        nothing fails.
        """
        capacities = LayerCapacities.from_scores(scores, budget)
        sizes = {name: budget.sizes[name] for name in scores}
        order = list(budget.shapes or scores)
        convolutions = [name for name in order if len(find_dimensions(budget, name)) == 4]
        first = convolutions[0] if convolutions else None
        last = order[-1]
        demands: dict[str, int] = {}
        if first is not None and first in sizes:
            demands[first] = capacities.alive[first]
        shares = _share_with_demands(demands, sizes, capacities, budget.keep)
        if last in sizes and last != first and shares[last] < LAST * sizes[last]:
            units = math.ceil(LAST * sizes[last] / capacities.costs[last])
            demands[last] = min(capacities.alive[last], units * capacities.costs[last])
            shares = _share_with_demands(demands, sizes, capacities, budget.keep)
        return capacities.round_shares(shares, budget.keep)


def _share_with_demands(
    demands: Mapping[str, int], sizes: Mapping[str, int], capacities: LayerCapacities, keep: int
) -> dict[str, float]:
    """Compute the shares where some layers demand so many weights and the others share equally."""
    others = {name: size for name, size in sizes.items() if name not in demands}
    one_unit_each = sum(min(capacities.costs[name], capacities.alive[name]) for name in others)
    left = max(0, keep - one_unit_each)
    demanded = sum(demands.values())
    fixed: dict[str, float] = dict(demands)
    if demanded > left:
        fixed = {name: demand * left / demanded for name, demand in demands.items()}
    rest = keep - sum(fixed.values())
    shares = fixed | share_proportionally(others, capacities.alive, rest)
    return {name: shares[name] for name in sizes}
