"""Numbers of channels that are multiples, since kernels work on several channels at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from pruning.channels.graph import ChannelGraph
from pruning.masks import select_top
from pruning.types import Keeps


@dataclass(frozen=True)
class Rounding:
    """Chooses channels so that in every group a multiple of `multiple` remains, or all of it.

    A head counts as the channels that it is in a layer.
    """

    graph: ChannelGraph
    importance: Mapping[str, Tensor]
    """The importance of each channel by group, -inf for what is removed."""
    before: Tensor
    """The channels that remained before, bool by number."""
    multiple: int
    exact: frozenset[str] = frozenset()
    """The groups that are not rounded."""

    def round_down(self, keeps: Keeps) -> dict[str, int]:
        """The widths of groups that are allocated `keeps`: at least one multiple each."""
        counts = {}
        for name, alive in self._alive.items():
            step = self._steps[name]
            multiples = max(1, keeps[name] // step)
            counts[name] = alive if keeps[name] >= alive else min(alive, multiples * step)
        return counts

    def choose(self, counts: Mapping[str, int]) -> Tensor:
        """The most important channels of each group, with those that lie between two of them along
        shortcuts; a group that gains some of these is filled up to the next multiple.
        """
        keep = self.before.clone()
        for group in self.graph.removable:
            keep[group.span] = self._ranks[group.name] < counts[group.name]
        while True:
            keep = self.graph.closed(keep)
            grown = keep.clone()
            for group in self.graph.removable:
                kept = keep[group.span]
                step = self._steps[group.name]
                kept_count = int(kept.count_nonzero())
                count = min(self._alive[group.name], math.ceil(kept_count / step) * step)
                if count == kept_count:
                    continue
                score = self.importance[group.name]
                first = score.masked_fill(kept, float(score.max()) + 1.0)
                grown[group.span] = select_top(first, count)
            if bool((grown == keep).all()):
                return keep
            keep = grown

    def fill(self, keeps: Keeps, can_afford: Callable[[Tensor], bool]) -> Tensor:
        """The choice of the rounded widths with further multiples as long as they can be afforded,
        for the groups first that lost most by rounding.
        """
        counts = self.round_down(keeps)
        growing = [name for name in counts if name not in self.exact]
        best = self.choose(counts)
        is_growing = True
        while is_growing:
            is_growing = False
            for name in sorted(growing, key=lambda name: counts[name] - keeps[name]):
                step = self._steps[name]
                more = counts | {name: min(self._alive[name], (counts[name] // step + 1) * step)}
                if more[name] == counts[name]:
                    continue
                grown = self.choose(more)
                if can_afford(grown):
                    counts, best, is_growing = more, grown, True
        return best

    @cached_property
    def _steps(self) -> dict[str, int]:
        """The number of units of each group that are the least multiple."""
        return {
            group.name: 1
            if group.name in self.exact
            else self.multiple // math.gcd(self.multiple, group.head_size or 1)
            for group in self.graph.removable
        }

    @cached_property
    def _alive(self) -> dict[str, int]:
        """The channels of each group that remained before."""
        return {group.name: int(self.before[group.span].sum()) for group in self.graph.removable}

    @cached_property
    def _ranks(self) -> dict[str, Tensor]:
        """The rank of each channel in its group, the most important first, of equal ones the first:
        those below a count are what `select_top` selects.
        """
        orders = {
            name: score.argsort(descending=True, stable=True)
            for name, score in self.importance.items()
        }
        return {name: order.argsort() for name, order in orders.items()}
