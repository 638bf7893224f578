"""The choice of the most channels whose weights fit into a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from pruning.channels.graph import ChannelGraph
from pruning.errors import BudgetError
from pruning.granularities._channel_scores import NoShapes
from pruning.granularities._rounding import Rounding
from pruning.masks import count_kept, select_top
from pruning.networks.layers import name_layer
from pruning.types import Budget, Keeps, Masks, Selection

LEAST_SHARE = 0.99
"""The share of the weights, and of the importance, that channels chosen in multiples have to keep
of those chosen one by one, so that rounding costs nothing.
"""


class WeightCounter:
    """Counts the weights that remain with some of the channels."""

    def __init__(self, graph: ChannelGraph, masks: Masks) -> None:
        self.graph = graph
        own_masks = {name: mask for name, mask in masks.items() if name_layer(name) in graph.inputs}
        others = {name: mask for name, mask in masks.items() if name not in own_masks}
        self.others = sum(count_kept(others).values())
        # The weights of each output and column, as floats for products: (out, in / groups).
        self.kernels = {
            name: mask.reshape(*mask.shape[:2], -1).count_nonzero(2).float().cpu()
            for name, mask in own_masks.items()
        }

    def count(self, keep: Tensor) -> int:
        """Count the weights that remain where `keep` marks the channels that do."""
        total = self.others
        for name, kernels in self.kernels.items():
            owner = name_layer(name)
            reads = keep[self.graph.inputs[owner]].float()
            writes = keep[self.graph.outputs[owner]].double()
            groups = len(reads) // kernels.shape[1]
            by_group = kernels.reshape(groups, -1, kernels.shape[1])
            rows = (by_group @ reads.reshape(groups, -1, 1)).flatten()
            # A row has fewer weights than a float32 can count, a layer may have more.
            total += int(rows.double() @ writes)
        return total


@dataclass(frozen=True, kw_only=True)
class ChannelChoice:
    """The choice of the most channels whose weights fit into a budget."""

    graph: ChannelGraph
    selection: Selection
    importance: dict[str, Tensor]
    before: Tensor
    counter: WeightCounter
    budget: int
    fixed: Keeps
    """The channels that remain of groups with overrides, by group."""

    @property
    def alive(self) -> int:
        """The channels that can be chosen, of groups without overrides."""
        return sum(int((score > -math.inf).sum()) for score in self._free.values())

    @property
    def _free(self) -> dict[str, Tensor]:
        """The importance of the channels of groups without overrides."""
        return {name: score for name, score in self.importance.items() if name not in self.fixed}

    def refuse_too_sparse(self, total: int) -> None:
        """Raise `BudgetError` where groups with overrides lose more than the budget asks for.

        Less than one more channel in each of them is no more.
        """
        at_target = all(override.progress == 1.0 for override in self.selection.overrides.values())
        if not self.fixed or not at_target:
            return
        more = {name: count + 1 for name, count in self.fixed.items()}
        if self._count_weights(replace(self, fixed=more)._choose(self.alive)) <= self.budget:
            densest = self._count_weights(self._choose(self.alive)) / total
            raise BudgetError(
                f"density {self.selection.density:.4g} cannot be reached with the overrides: with "
                f"all other channels it is {densest:.4g}",
                pointer="/targets/sparsity",
            )

    def choose_exactly(self) -> Tensor | None:
        """Choose channels one by one; None where one of every group is too much."""
        channels = self._find_most(self._choose)
        return None if channels is None else self._choose(channels)

    def choose_rounded(self, multiple: int) -> Tensor | None:
        """Choose channels in multiples; None where one multiple of every group is too much."""
        rounding = self._round(multiple)
        channels = self._find_most(lambda channels: self._choose_floor(rounding, channels))
        if channels is None:
            return None
        return rounding.fill(self._allocate(channels), self._can_afford)

    def costs_nothing(self, rounded: Tensor, exact: Tensor) -> bool:
        """Whether channels chosen in multiples keep nearly all the weights and the importance of
        those chosen one by one.
        """
        weights, most = (self._count_weights(keep) for keep in (rounded, exact))
        if weights < LEAST_SHARE * most:
            return False
        total, most_important = (self._sum_importance(keep) for keep in (rounded, exact))
        return total >= LEAST_SHARE * most_important > 0

    def count_least(self, multiple: int) -> int:
        """Count the weights that remain with the fewest channels."""
        if multiple == 1:
            return self._count_weights(self._choose(1))
        rounding = self._round(multiple)
        return self._count_weights(self._choose_floor(rounding, 1))

    def _find_most(self, choose: Callable[[int], Tensor]) -> int | None:
        """Find the most channels to allocate; None where the fewest are too many."""
        if not (self.alive or self.fixed) or not self._can_afford(choose(1)):
            return None
        # With overrides all the channels of the other groups may be affordable.
        return _bisect(
            lambda channels: self._can_afford(choose(channels)),
            affordable=1,
            too_many=self.alive + 1 if self.fixed else self.alive,
        )

    def _round(self, multiple: int) -> Rounding:
        return Rounding(self.graph, self.importance, self.before, multiple, frozenset(self.fixed))

    def _allocate(self, channels: int) -> Keeps:
        free = self._free
        if not free:
            return dict(self.fixed)
        budget = Budget(channels, {name: len(score) for name, score in free.items()}, NoShapes())
        return self.selection.allocation.allocate(free, budget) | self.fixed

    def _choose(self, channels: int) -> Tensor:
        keeps = self._allocate(channels)
        return _choose_best(self.graph, self.importance, keeps, self.before)

    def _choose_floor(self, rounding: Rounding, channels: int) -> Tensor:
        return rounding.choose(rounding.round_down(self._allocate(channels)))

    def _can_afford(self, keep: Tensor) -> bool:
        return self._count_weights(keep) <= self.budget

    def _count_weights(self, keep: Tensor) -> int:
        return self.counter.count(self.graph.closed(keep))

    def _sum_importance(self, keep: Tensor) -> float:
        """The importance of the channels that remain, over all groups."""
        groups = self.graph.removable
        parts = [self.importance[group.name][keep[group.span]] for group in groups]
        return sum(float(part.sum()) for part in parts)


def _choose_best(
    graph: ChannelGraph, importance: Mapping[str, Tensor], keeps: Keeps, before: Tensor
) -> Tensor:
    """Choose the most important channels of each group, at least one."""
    keep = before.clone()
    for group in graph.removable:
        alive = int(before[group.span].sum())
        count = min(alive, max(1, keeps[group.name]))
        keep[group.span] = select_top(importance[group.name], count)
    return keep


def _bisect(can_afford: Callable[[int], bool], *, affordable: int, too_many: int) -> int:
    """Find a count that can be afforded where the next one cannot."""
    while too_many - affordable > 1:
        middle = (affordable + too_many) // 2
        if can_afford(middle):
            affordable = middle
        else:
            too_many = middle
    return affordable
