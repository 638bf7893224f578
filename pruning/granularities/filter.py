"""Filters or input channels of each layer by itself, as in the experiments of Lost in Pruning.

Source: the code released with Liebenwein et al., Lost in Pruning, MLSys 2021 (`FilterThresNet`
removes filters, `PFPNet` input channels), which counts weights as this granularity does: BatchNorm
and biases stay, and count among all parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from pruning.channels.graph import ChannelGraph
from pruning.channels.separate import LayerChannels, SeparateChannels
from pruning.errors import BudgetError, ParameterError, ScoreError
from pruning.granularities import granularities
from pruning.granularities._channel_scores import NoShapes, distinguishes, scores_inputs
from pruning.masks import count_kept, select_top, select_weight_masks
from pruning.networks.layers import name_layer
from pruning.types import Budget, Keeps, Selected, Selection

TOLERANCE = 5e-4
"""The fraction of all prunable weights by which a density may be missed without a search for better
counts of the layers.
"""
SEARCHES = 200
"""The most changes of the counts of the layers in search of the density."""
Layers: TypeAlias = dict[str, LayerChannels]


@granularities.register("filter")
@dataclass(frozen=True)
class Filter:
    """Filters of each layer by itself, or its input channels where the criterion scores these.

    Layers that add into one stream need not lose the same channels, and no layer becomes smaller:
    what is removed is zero. What no longer matters leaves too: an input channel all of whose
    filters are gone, and a filter that no layer reads any more. The allocation divides the filters,
    at least one of each layer remains, and the network's outputs all do. Single filters more or
    less in some layers then bring the density near the target. See `channel` for the other choice,
    coupled channels that leave the network.

    >>> from pruning.allocations import allocations
    >>> from pruning.sparsifiers import sparsifiers
    >>> layers = torch.nn.Linear(1, 4, bias=False), torch.nn.Linear(4, 2, bias=False)
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), *layers)
    >>> weights = {name: weight.detach() for name, weight in net.named_parameters()}
    >>> scores = {
    ...     "1.weight": torch.tensor([[3.0], [1.0], [4.0], [2.0]]),
    ...     "2.weight": torch.ones(2, 1),
    ... }
    >>> selection = Selection(
    ...     model=net,
    ...     weights=weights,
    ...     scores=scores,
    ...     masks={key: torch.ones_like(value) > 0 for key, value in weights.items()},
    ...     density=0.5,
    ...     allocation=allocations.create("uniform"),
    ...     sparsifier=sparsifiers.create("top_k"),
    ...     generator=torch.Generator(),
    ...     shape=lambda: (1, 1, 1),
    ... )
    >>> Filter().select(selection).masks["2.weight"]
    tensor([[ True, False,  True, False],
            [ True, False,  True, False]])
    """

    overrides: ClassVar[bool] = True

    def select(self, selection: Selection) -> Selected:
        """Select filters with which the density, in weights, is at most the target, and within
        `TOLERANCE` of it where whole filters allow that.

        A layer with an override keeps as many filters (or input channels) as this asks for. Masks
        stay as they are where the density is reached already. Raises `BudgetError` where one filter
        of every layer is still too much, or where overrides leave no others that could bring the
        density there, `ParameterError` for a sparsifier that reweights, and for an override of a
        layer whose filters stay,
        `StructureError` for a network whose channels cannot be distinguished.
        """
        if getattr(selection.sparsifier, "reweights", False):
            raise ParameterError(
                "filters of each layer by itself are chosen, not drawn: use the granularity "
                "channel, or the sparsifier top_k",
                pointer="/sparsifier",
            )
        old = select_weight_masks(selection.masks)
        total = sum(mask.numel() for mask in old.values())
        budget = math.floor(selection.density * total + 1e-6)
        if sum(count_kept(old).values()) <= budget:
            return Selected(selection.masks, dict(selection.weights))
        graph = ChannelGraph.of_selection(selection)
        channels = SeparateChannels(graph, selection.model, old)
        untraced = {
            name: "it has no part in the outputs"
            for name in old
            if name_layer(name) not in channels.counts
        }
        search = _Search(selection, channels, sum(int(old[name].sum()) for name in untraced))
        keeps = search.find(budget, total)
        masks = selection.masks | channels.masks(search.apply(keeps), selection.masks)
        weights = {
            name: weight.masked_fill(~masks[name], 0.0)
            for name, weight in selection.weights.items()
        }
        return Selected(masks, weights, untraced)


@dataclass
class _Search:
    """The search for the number of filters of each layer that leaves the wanted density."""

    selection: Selection
    channels: SeparateChannels
    others: int
    """The weights of layers that the graph does not know."""
    importance: dict[str, Tensor] = field(init=False)
    """The score of each filter or input channel by layer, -inf for what is removed."""
    alive: Keeps = field(init=False)
    """The filters that remain, of the layers without overrides."""
    fixed: Keeps = field(init=False)
    """The filters that are to remain of the layers with overrides."""

    def __post_init__(self) -> None:
        self.by_input = scores_inputs(self.selection)
        self.importance = {}
        for name, counts in self.channels.counts.items():
            if not self.by_input and name in self.channels.answering:
                continue
            key = self.channels.weights[name]
            score = self.selection.scores[key].double().cpu()
            if not distinguishes(score, self.selection.weights[key], self.by_input):
                continue
            axes = (0, 1) if self.by_input else 2
            alive = torch.from_numpy(counts).sum(axes).flatten() > 0
            values = score.masked_fill(score == -math.inf, 0.0)
            by_channel = values.flatten() if self.by_input else values.flatten(1).sum(1)
            self.importance[name] = by_channel.masked_fill(~alive, -math.inf)
        if not self.importance:
            raise ScoreError("the criterion distinguishes no filters of any layer")
        self.alive = {
            name: int((score > -math.inf).sum()) for name, score in self.importance.items()
        }
        self.fixed = self.count_overridden(self.alive)
        self.alive = {name: left for name, left in self.alive.items() if name not in self.fixed}

    def count_overridden(self, alive: Keeps) -> Keeps:
        """Count the filters that remain of the layers with overrides."""
        fixed: Keeps = {}
        layers = {self.channels.weights[name]: name for name in self.importance}
        for key, override in self.selection.overrides.items():
            if key in layers:
                name = layers[key]
                fixed[name] = override.count(len(self.importance[name]), alive[name], ahead=True)
            elif override.sparsity:
                raise ParameterError(
                    f"overrides: no {'input channel' if self.by_input else 'filter'} of {key} can "
                    "be removed by its score, or it writes the network's outputs",
                    pointer=override.pointer,
                )
        return fixed

    def refuse_too_sparse(self, budget: int, total: int) -> None:
        """Raise `BudgetError` where the layers with overrides lose more than the budget asks for;
        less than one more filter in each of them is no more.
        """
        overrides = self.selection.overrides.values()
        if not self.fixed or any(override.progress < 1.0 for override in overrides):
            return
        more = {name: count + 1 for name, count in self.fixed.items()}
        sizes = {name: int((self.importance[name] > -math.inf).sum()) for name in more}
        more = {name: min(sizes[name], count) for name, count in more.items()}
        if self.count(self.alive | more) <= budget:
            densest = self.count(self.alive | self.fixed) / total
            raise BudgetError(
                f"density {self.selection.density:.4g} cannot be reached with the overrides: with "
                f"all filters of the other layers it is {densest:.4g}",
                pointer="/targets/sparsity",
            )

    def find(self, budget: int, total: int) -> Keeps:
        """Find how many filters each layer keeps; raises `BudgetError` where one is too much."""
        self.refuse_too_sparse(budget, total)
        if self.count(self.allocate(1)) > budget:
            least = self.count(self.allocate(1)) / total
            raise BudgetError(
                f"density {self.selection.density:.4g} cannot be reached by removing filters: "
                f"with one of each layer it is {least:.4g}"
            )
        # With overrides all the filters of the other layers may be affordable.
        affordable, too_many = 1, sum(self.alive.values()) + bool(self.fixed)
        while too_many - affordable > 1:
            middle = (affordable + too_many) // 2
            if self.count(self.allocate(middle)) <= budget:
                affordable = middle
            else:
                too_many = middle
        return self.approach(self.allocate(affordable), budget, TOLERANCE * total)

    def allocate(self, filters: int) -> Keeps:
        """Divide this many filters over the layers, at least one for each that has any."""
        if not self.alive:
            return dict(self.fixed)
        free = {name: self.importance[name] for name in self.alive}
        budget = Budget(filters, {name: len(score) for name, score in free.items()}, NoShapes())
        keeps = self.selection.allocation.allocate(free, budget)
        own = {name: min(alive, max(1, keeps[name])) for name, alive in self.alive.items()}
        return own | self.fixed

    def approach(self, keeps: Keeps, budget: int, tolerance: float) -> Keeps:
        """Come as near below the budget as the tolerance asks, by one filter more in a layer, or
        one more in a layer for one less in another.
        """
        missing = budget - self.count(keeps)
        for _ in range(SEARCHES):
            if missing <= tolerance:
                break
            best, best_missing = keeps, missing
            for changed in self.neighbours(keeps, missing):
                left = budget - self.count(changed)
                if 0 <= left < best_missing:
                    best, best_missing = changed, left
                if best_missing <= tolerance:
                    break
            if best_missing == missing:
                break
            keeps, missing = best, best_missing
        return keeps

    def neighbours(self, keeps: Keeps, missing: int) -> list[Keeps]:
        """The counts with one filter more in a layer; with fewer left than that adds, those with
        one less in another layer too.
        """
        more = [
            keeps | {name: keeps[name] + 1} for name in self.alive if keeps[name] < self.alive[name]
        ]
        here = self.count(keeps)
        if any(0 < self.count(changed) - here <= missing for changed in more):
            return more
        return [
            changed | {name: changed[name] - 1}
            for changed in more
            for name in self.alive
            if changed[name] == keeps[name] > 1
        ]

    def apply(self, keeps: Keeps) -> Layers:
        """The network's layers with the best filters of each."""
        chosen = {
            name: select_top(score, keeps[name]).numpy() for name, score in self.importance.items()
        }
        if self.by_input:
            return self.channels.without({}, chosen)
        return self.channels.without(chosen, {})

    def count(self, keeps: Keeps) -> int:
        """The weights of the whole network that remain with these counts."""
        return self.others + self.channels.count(self.apply(keeps))
