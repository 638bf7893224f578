"""Budgets: masks with which a network keeps to a number of FLOPs, parameters or bytes.

The criterion scores once; how many weights or channels remain is then searched for by bisection,
with the counts that reports have. Nothing is trained and no image is looked at for it.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from pruning.channels.graph import ChannelGraph
from pruning.errors import BudgetError
from pruning.masks import (
    build_full_masks,
    count_kept,
    count_parameters,
    density,
    find_prunable,
    select_weight_masks,
)
from pruning.measurement.costs import count_flops, tabulate_flops
from pruning.rounds.method import PruningMethod
from pruning.schemas.recipe import Method, Recipe
from pruning.schemas.targets import NOUNS, Quantity, TargetsOfNetwork, find_limit
from pruning.storage.checkpoints import count_sparse_bytes
from pruning.types import Granularity, Masks, Selected, Selection, Shape

TOLERANCE = 0.01
"""The fraction of a budget that may be left over before channels are chosen one by one, and no
longer in the multiples that the granularity prefers.
"""


@dataclass(frozen=True, kw_only=True)
class Gauge:
    """The quantity that a job's budgets are told in, and how much of it the dense network has."""

    quantity: Quantity
    dense: int
    outline: nn.Module
    """The dense network, without memory for its weights."""
    shape: Shape
    names: tuple[str, ...]
    """The prunable weights."""
    file_info: Mapping[str, Any]
    """The metadata of the file of the dense network."""

    @staticmethod
    def of(
        recipe: Recipe, network: nn.Module, shape: Shape, file_info: Mapping[str, Any]
    ) -> Gauge | None:
        """The gauge of a job; None where its targets are no budgets."""
        quantity = recipe.targets.quantity
        if not recipe.targets.are_budgets:
            return None
        outline = copy.deepcopy(network).to("meta").eval()
        if quantity == "flops":
            dense = count_flops(outline, shape)
        elif quantity == "parameters":
            dense = count_parameters(outline)
        else:
            dense = count_sparse_bytes(outline.state_dict(), {}, **file_info)
        return Gauge(
            quantity=quantity,
            dense=dense,
            outline=outline,
            shape=shape,
            names=tuple(find_prunable(outline, recipe.exclude, recipe.include)),
            file_info=file_info,
        )

    def settle(self, recipe: Recipe) -> Recipe:
        """The recipe whose budgets know what the dense network has.

        Raises `BudgetError` for a budget that the dense network keeps to.
        """
        targets = recipe.targets
        for value in targets.values:
            if value >= self.dense:
                raise BudgetError(
                    f"the dense network has {self.dense:,} {NOUNS[self.quantity]}, which a budget "
                    f"of {value:,} does not lessen; ask for fewer",
                    pointer=f"/targets/{self.quantity}/{targets.values.index(value)}",
                )
        settled = TargetsOfNetwork(**{targets.quantity: targets.values}, dense=self.dense)
        return recipe.model_copy(update={"targets": settled})

    def limit(self, share: float) -> int:
        """The largest whole number that is at most this share of what the dense network has."""
        return find_limit(share, self.dense)


@dataclass(frozen=True, kw_only=True)
class Counter:
    """Counts what a network has under the masks of one criterion, as its report will."""

    gauge: Gauge
    model: nn.Module
    """The network that is pruned."""
    criterion: Method
    compacts: bool
    """Whether channels that are removed leave the network."""
    known: dict[Hashable, Any] = field(default_factory=dict)
    """Findings about the structure of the network, as those of `Selection`."""

    @staticmethod
    def of(gauge: Gauge, model: nn.Module, criterion: Method, method: PruningMethod) -> Counter:
        """The counter of a criterion of a recipe."""
        return Counter(gauge=gauge, model=model, criterion=criterion, compacts=method.compacts)

    def count(self, masks: Masks) -> int:
        """Count what the network has under the masks: of the network that is shipped."""
        gauge = self.gauge
        network, kept = gauge.outline, count_kept(masks)
        if gauge.quantity == "parameters":
            removed = sum(masks[name].numel() - kept[name] for name in masks)
            return count_parameters(network) - removed
        if self.compacts:
            graph = self._find_graph()
            network = graph.shrink(self.model, graph.kept(self.model, masks)).to("meta")
            kept = {}
        if gauge.quantity == "size_bytes":
            criterion = self.criterion.model_dump(mode="json")
            info = {"criterion": criterion, "sparsity": 1.0 - density(masks)}
            return count_sparse_bytes(network.state_dict(), kept, **{**gauge.file_info, **info})
        if self.compacts:
            return count_flops(network, gauge.shape)
        if "flops" not in self.known:
            self.known["flops"] = tabulate_flops(network, gauge.shape)
        return int(self.known["flops"].count_kept(kept))

    def measure_share(self, masks: Masks) -> float:
        """The share of what the dense network has that remains under the masks."""
        return self.count(masks) / self.gauge.dense

    def find_least(self, method: PruningMethod) -> tuple[int, Mapping[str, str]]:
        """Find what remains at the least, with random scores: one weight of all, or as few blocks
        or channels as the granularity can leave; and the layers left dense, with the reasons.
        """
        weights = {name: self.model.get_parameter(name).detach() for name in self.gauge.names}
        generator = torch.Generator().manual_seed(0)
        selection = Selection(
            model=self.model,
            weights=weights,
            scores={
                name: torch.rand(weight.shape, generator=generator)
                for name, weight in weights.items()
            },
            masks=build_full_masks(weights),
            density=0.0,
            allocation=method.allocation,
            sparsifier=method.sparsifier,
            generator=generator,
            shape=lambda: self.gauge.shape,
            known=self.known,
        )
        search = _Search(method.granularity, selection, self)
        selected = search.find_least()
        return search.count(selected), {} if selected is None else selected.left_dense

    def _find_graph(self) -> ChannelGraph:
        """The channels of the network, traced once for all counts and selections."""
        key = (ChannelGraph, self.gauge.shape, self.gauge.names)
        if key not in self.known:
            self.known[key] = ChannelGraph.of(self.model, self.gauge.shape, self.gauge.names)
        graph: ChannelGraph = self.known[key]
        return graph


def select_within(granularity: Granularity, selection: Selection, counter: Counter) -> Selected:
    """Select the most units with which the network keeps to a budget: the share `density` of the
    selection of what the dense network has.

    Their number is found by bisection; `counter` counts, and nothing is above the budget. Masks
    stay as they are where the network keeps to it already. Raises `BudgetError` where the fewest
    units that may remain are too many.
    """
    limit = counter.gauge.limit(selection.density)
    if counter.count(selection.masks) <= limit:
        return Selected(selection.masks, dict(selection.weights))
    selected, count = _Search(granularity, selection, counter).find_most(limit)
    chooses_multiples = getattr(granularity, "round_to", 1) is None
    if chooses_multiples and limit - count > TOLERANCE * limit:
        one_by_one = replace(granularity, round_to=1)  # type: ignore[type-var]
        other, other_count = _Search(one_by_one, selection, counter).find_most(limit)
        if other_count > count:
            return other
    return selected


class _Search:
    """The search for the number of weights that remain, as the granularity can realise it."""

    def __init__(self, granularity: Granularity, selection: Selection, counter: Counter) -> None:
        self.granularity = granularity
        self.selection = selection
        self.counter = counter
        own = select_weight_masks(selection.masks)
        self.total = sum(mask.numel() for mask in own.values())
        self.alive = sum(count_kept(own).values())
        self.state = selection.generator.get_state()

    def find_most(self, limit: int) -> tuple[Selected, int]:
        """Find the largest selection that counts at most `limit`, and its count."""
        best: tuple[Selected, int] | None = None
        too_few, too_many = 0, self.alive
        while too_many - too_few > 1:
            middle = (too_few + too_many) // 2
            selected = self._select(middle)
            count = None if selected is None else self.counter.count(selected.masks)
            if selected is None or count is None:
                too_few = middle
            elif count <= limit:
                best, too_few = (selected, count), middle
            else:
                too_many = middle
        if best is None:
            gauge = self.counter.gauge
            least = self.count(self.find_least())
            raise BudgetError(
                f"{limit:,} {NOUNS[gauge.quantity]} ({limit / gauge.dense:.4g} of the dense "
                f"network's {gauge.dense:,}) cannot be reached: the closest is {least:,} "
                f"({least / gauge.dense:.4g})"
            )
        return best

    def find_least(self) -> Selected | None:
        """Find the smallest selection that there is; None where nothing can be removed."""
        too_few, enough = 0, self.alive
        if self._select(1) is not None:
            enough = 1
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            if self._select(middle) is None:
                too_few = middle
            else:
                enough = middle
        return self._select(enough)

    def count(self, selected: Selected | None) -> int:
        """Count what the network has under a selection; under the masks before it for None."""
        masks = self.selection.masks if selected is None else selected.masks
        return self.counter.count(masks)

    def _select(self, kept: int) -> Selected | None:
        """Select so many weights, with the draws that every other number has; None where the
        granularity cannot leave so few.
        """
        self.selection.generator.set_state(self.state)
        try:
            return self.granularity.select(
                replace(self.selection, density=kept / self.total, known=self.counter.known)
            )
        except BudgetError:
            return None
