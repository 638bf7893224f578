"""Erdos-Renyi-kernel allocation (ERK): small layers are kept denser.

Source: Evci, Gale, Menick, Castro and Elsen, Rigging the lottery: making all tickets winners, ICML
2020; the name and the form without kernels are of Mocanu et al., Nature Communications 2018.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pruning.allocations import allocations
from pruning.allocations._shares import LayerCapacities, find_dimensions, share_proportionally
from pruning.types import Budget, Keeps, Scores


@allocations.register("erk")
@dataclass(frozen=True)
class ERK:
    """Density by layer in proportion to (sum of the weight's dimensions) / (their product).

    Dense where that is above 1. Layers of 2x2 and 8x8: 4/4 and 16/64, so eps (1 4 + 1/4 64) = 20
    eps = 10 weights, 2 and 8; of 40 weights they would be 8 and 32, but the first has 4.

    >>> import torch
    >>> scores = {"a": torch.rand(2, 2), "b": torch.rand(8, 8)}
    >>> sizes, shapes = {"a": 4, "b": 64}, {"a": (2, 2), "b": (8, 8)}
    >>> ERK().allocate(scores, Budget(10, sizes, shapes))
    {'a': 2, 'b': 8}
    >>> ERK().allocate(scores, Budget(40, sizes, shapes))
    {'a': 4, 'b': 36}
    """

    def allocate(self, scores: Scores, budget: Budget) -> Keeps:
        """Allocate keep_l = d_l N_l, d_l = eps (sum of dims) / (product of dims).

        eps follows from sum d_l N_l = budget; counts are rounded by largest remainder. The
        dimensions are all those of the weight: out, in / groups, kernel; where its shape is not
        known, its size. A layer with d_l above 1, or above what remains of it, keeps what it has,
        and eps is computed again for the others.
        """
        capacities = LayerCapacities.from_scores(scores, budget)
        dims = {name: find_dimensions(budget, name) for name in scores}
        weights = {
            name: budget.sizes[name] * sum(dims[name]) / math.prod(dims[name]) for name in scores
        }
        shares = share_proportionally(weights, capacities.alive, budget.keep)
        return capacities.round_shares(shares, budget.keep)
