"""Uniform+ allocation: uniform, but for the two layers that suffer most.

Source: Gale, Elsen and Hooker, The state of sparsity in deep neural networks, 2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pruning.allocations import allocations
from pruning.allocations._shares import LayerCapacities, layer_dimensions, share_proportionally
from pruning.types import Budget, Keeps, Scores

LAST = 0.2
"""The last layer keeps this fraction of its weights, if not more."""


@allocations.register("uniform_plus")
@dataclass(frozen=True)
class UniformPlus:
    """The first convolution stays dense, the last layer keeps 20 % at least, the others share the
    rest alike.

    >>> import torch
    >>> scores = {
    ...     "stem": torch.rand(2, 1, 1, 1),
    ...     "conv": torch.rand(10, 10, 1, 1),
    ...     "fc": torch.rand(5, 10),
    ... }
    >>> budget = Budget(
    ...     20,
    ...     {k: s.numel() for k, s in scores.items()},
    ...     {k: tuple(s.shape) for k, s in scores.items()},
    ... )
    >>> UniformPlus().allocate(scores, budget)
    {'stem': 2, 'conv': 8, 'fc': 10}
    """

    def allocate(self, scores: Scores, budget: Budget) -> Keeps:
        """keep_l = d' size_l with one d' for all but the first convolution and, where d' < 0.2, the
        last layer.

        First and last are those of the network, in its order; one that is not among the scores is
        dense or left out already. A network without convolutions keeps no layer dense. Where the
        two want so much that the other layers would have less than a unit each, both are scaled
        down, alike, until these have that many to share: at extreme sparsities nothing is dense,
        and nothing fails.
        """
        rooms = LayerCapacities.of(scores, budget)
        sizes = {name: budget.sizes[name] for name in scores}
        order = list(budget.shapes or scores)
        first = next((name for name in order if len(layer_dimensions(budget, name)) == 4), None)
        last = order[-1]
        wanted = {first: rooms.alive[first]} if first in sizes else {}
        found = self._with(wanted, sizes, rooms, budget.keep)
        if last in sizes and last != first and found[last] < LAST * sizes[last]:
            units = math.ceil(LAST * sizes[last] / rooms.costs[last])
            wanted[last] = min(rooms.alive[last], units * rooms.costs[last])
            found = self._with(wanted, sizes, rooms, budget.keep)
        return rooms.rounded(found, budget.keep)

    def _with(
        self, wanted: dict[str, int], sizes: dict[str, int], rooms: LayerCapacities, keep: int
    ) -> dict[str, float]:
        """The shares where some layers want so much and the others share the rest alike."""
        others = {name: size for name, size in sizes.items() if name not in wanted}
        left = max(0, keep - sum(min(rooms.costs[name], rooms.alive[name]) for name in others))
        fixed: dict[str, float] = dict(wanted)
        if sum(wanted.values()) > left:
            fixed = {name: want * left / sum(wanted.values()) for name, want in wanted.items()}
        found = fixed | share_proportionally(others, rooms.alive, keep - sum(fixed.values()))
        return {name: found[name] for name in sizes}
