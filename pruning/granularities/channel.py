"""Structured pruning: whole channels are removed, with every row, column, bias and BatchNorm
parameter that belongs to them.

Source: Fang et al., DepGraph: towards any structural pruning, CVPR 2023 (coupled groups; mean over
the members of a group; normalisation by the group's mean).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from pruning.allocations.global_ import Global
from pruning.channels.drawn_channels import DrawnChannels
from pruning.channels.graph import ChannelGraph
from pruning.errors import BudgetError, ParameterError, ScoreError
from pruning.granularities import granularities
from pruning.granularities._channel_scores import NoShapes, distinguishes, scores_inputs
from pruning.granularities._rounding import Rounding
from pruning.masks import count_kept, select_top, select_weight_masks
from pruning.networks.layers import name_layer
from pruning.types import Budget, DrawLaw, Keeps, Masks, Selected, Selection

DEFAULT_MULTIPLE = 8
"""The multiple that is tried by default: the floats that a vector register of CPUs holds."""
LEAST_SHARE = 0.99
"""The share of the weights, and of the importance, that channels chosen in multiples have to keep
of those chosen one by one, so that rounding costs nothing.
"""


@granularities.register("channel")
@dataclass(frozen=True)
class Channel:
    """Whole channels, coupled ones together: the network becomes smaller, not only sparser.

    Channels that can only be removed together form a unit; units side by side in the same layers
    form a group, which the allocation treats as a layer. A unit's importance is the mean over the
    layers it is a part of (and over its channels in a layer) of the criterion's score of a channel:
    a score per weight is summed over what writes the channel, a score per filter or per input
    channel is taken as it is. Under `global`, `normalize` divides by the mean of the group's
    absolute importance, so that groups can compete. At least one unit of every group remains: the
    most important ones as they are, or, where the sparsifier reweights, those it draws by
    importance, once for each group; see `pruning.channels.drawn_channels`.

    >>> from pruning.allocations import allocations
    >>> from pruning.sparsifiers import sparsifiers
    >>> layers = torch.nn.Linear(1, 2, bias=False), torch.nn.Linear(2, 2, bias=False)
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), *layers)
    >>> weights = {name: weight.detach() for name, weight in net.named_parameters()}
    >>> scores = {"1.weight": torch.tensor([[1.0], [2.0]]), "2.weight": torch.ones(2, 2)}
    >>> masks = {
    ...     name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()
    ... }
    >>> selection = Selection(
    ...     model=net,
    ...     weights=weights,
    ...     scores=scores,
    ...     masks=masks,
    ...     density=0.5,
    ...     allocation=allocations.create("global"),
    ...     sparsifier=sparsifiers.create("top_k"),
    ...     generator=torch.Generator(),
    ...     shape=lambda: (1, 1, 1),
    ... )
    >>> Channel().select(selection).masks
    {'1.weight': tensor([[False],
            [ True]]), '2.weight': tensor([[False,  True],
            [False,  True]])}
    """

    compacts: ClassVar[bool] = True
    normalize: bool = True
    round_to: Annotated[
        int | None,
        Field(
            ge=1,
            le=256,
            description="in each group a multiple of it remains, or all; null: 8 where that costs "
            "at most 1 % of the weights and of the importance that remain, else 1",
        ),
    ] = None

    def select(self, selection: Selection) -> Selected:
        """Select the most channels with which the density, in weights, is at most the target.

        Their number is found by bisection. Where channels are drawn, that many distinct ones are
        expected of every group: the density may differ.

        With `round_to` a multiple of it remains in every group, or all of the group, and the budget
        is met as nearly as such steps allow. By default it is 8 where that costs nothing: where it
        keeps at least 99 % of the weights and of the importance that channels chosen one by one
        keep.

        Masks stay as they are where the density is reached already. Raises `BudgetError` where one
        channel of every group is still too much, `StructureError` for a network whose channels
        cannot be distinguished.
        """
        graph = ChannelGraph.of_selection(selection)
        left_dense = graph.left_dense(selection.model, selection.weights)
        old = select_weight_masks(selection.masks)
        total = sum(mask.numel() for mask in old.values())
        budget = math.floor(selection.density * total + 1e-6)
        old_count = sum(count_kept(old).values())
        if old_count <= budget:
            return Selected(selection.masks, dict(selection.weights), left_dense)
        before = graph.kept(selection.model, selection.masks)
        importance = self.compute_importance(graph, selection, before)
        counter = _WeightCounter(graph, old)
        choice = _Choice(
            graph=graph,
            selection=selection,
            importance=importance,
            before=before,
            counter=counter,
            budget=budget,
        )
        chosen = self._choose(choice, can_round=not _draws_channels(selection))
        if chosen is None:
            multiple = self.round_to or 1
            least = choice.count_least(multiple) if choice.alive else old_count
            raise BudgetError(
                f"density {selection.density:.4g} cannot be reached by removing channels: with "
                f"{'one' if multiple == 1 else multiple} of each group it is "
                f"{least / total:.4g}{_explain_dense(left_dense)}"
            )
        return _apply_choice(graph, selection, importance, chosen, left_dense)

    def _choose(self, choice: _Choice, *, can_round: bool) -> Tensor | None:
        """Choose the channels that remain, in multiples where these are asked for or cost nothing;
        None where the budget is too small.
        """
        if self.round_to is not None and self.round_to > 1:
            if not can_round:
                raise ParameterError(
                    "round_to: where channels are drawn, how many distinct ones remain is random",
                    pointer="/granularity/params/round_to",
                )
            return choice.choose_rounded(self.round_to)
        exact = choice.choose_exactly()
        if exact is None or self.round_to == 1 or not can_round:
            return exact
        rounded = choice.choose_rounded(DEFAULT_MULTIPLE)
        if rounded is not None and choice.costs_nothing(rounded, exact):
            return rounded
        return exact

    def compute_importance(
        self, graph: ChannelGraph, selection: Selection, before: Tensor
    ) -> dict[str, Tensor]:
        """Compute the importance of each channel by group, float64, -inf for what is removed.

        `before` marks the channels that remain. Raises `ScoreError` where no layer of a group is
        scored.
        """
        total, members = _sum_scores(graph, selection)
        normalize = self.normalize and isinstance(selection.allocation, Global)
        importance = {}
        for group in graph.removable:
            if not members[group.span].all():
                raise ScoreError(
                    "the criterion scores none of the layers to which the channels of "
                    f"{group.name} belong"
                )
            alive = before[group.span]
            mean = total[group.span] / members[group.span]
            can_scale = normalize and bool(alive.any())
            scale = mean[alive].abs().mean() if can_scale else torch.tensor(1.0)
            normalized = mean / (scale if scale > 0 else 1.0)
            importance[group.name] = normalized.masked_fill(~alive, -math.inf)
        return importance


def _sum_scores(graph: ChannelGraph, selection: Selection) -> tuple[Tensor, Tensor]:
    """Sum each unit's mean score over its layers, and count these layers; float64, by channel."""
    total, members = torch.zeros(2, graph.size, dtype=torch.float64)
    by_input = scores_inputs(selection)
    for name, weight in selection.weights.items():
        owner = name_layer(name)
        score = selection.scores[name].double().cpu()
        if owner not in graph.outputs or not distinguishes(score, weight, by_input):
            continue
        score = score.masked_fill(score == -math.inf, 0.0)
        if by_input:
            channels = graph.inputs[owner]
            # In a grouped convolution a score is that of the same position in every group.
            values = score.flatten().repeat(len(channels) // score.numel())
        else:
            channels = graph.outputs[owner]
            values = score.flatten(1).sum(1)
        # A unit may have several channels in a layer: their mean counts.
        places = torch.zeros_like(total).index_add_(0, channels, torch.ones_like(values))
        sums = torch.zeros_like(total).index_add_(0, channels, values)
        total += sums / places.clamp_min(1.0)
        members += places > 0
    return total, members


def _apply_choice(
    graph: ChannelGraph,
    selection: Selection,
    importance: Mapping[str, Tensor],
    chosen: Tensor,
    left_dense: Mapping[str, str],
) -> Selected:
    """Return the masks and weights where the chosen channels remain, or as many are drawn."""
    model = selection.model
    weights: Mapping[str, Tensor] = selection.weights
    laws: dict[str, DrawLaw] = {}
    if _draws_channels(selection):
        drawn = DrawnChannels.of(
            graph, importance, chosen, selection.sparsifier, selection.generator
        )
        remaining = graph.closed(drawn.factors > 0)
        weights = drawn.reweighted(model, weights)
        laws = drawn.laws(model, weights)
    else:
        remaining = graph.closed(chosen)
    masks = selection.masks | _intersect(graph.masks(model, remaining), selection.masks)
    masked = {name: weight.masked_fill(~masks[name], 0.0) for name, weight in weights.items()}
    return Selected(masks, masked, left_dense, laws)


class _WeightCounter:
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
class _Choice:
    """The choice of the most channels whose weights fit into a budget."""

    graph: ChannelGraph
    selection: Selection
    importance: dict[str, Tensor]
    before: Tensor
    counter: _WeightCounter
    budget: int

    @property
    def alive(self) -> int:
        """The channels that can be chosen."""
        return sum(int((score > -math.inf).sum()) for score in self.importance.values())

    def choose_exactly(self) -> Tensor | None:
        """Choose channels one by one; None where one of every group is too much."""
        channels = self._find_most(self._choose)
        return None if channels is None else self._choose(channels)

    def choose_rounded(self, multiple: int) -> Tensor | None:
        """Choose channels in multiples; None where one multiple of every group is too much."""
        rounding = Rounding(self.graph, self.importance, self.before, multiple)
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
        rounding = Rounding(self.graph, self.importance, self.before, multiple)
        return self._count_weights(self._choose_floor(rounding, 1))

    def _find_most(self, choose: Callable[[int], Tensor]) -> int | None:
        """Find the most channels to allocate; None where the fewest are too many."""
        if not self.alive or not self._can_afford(choose(1)):
            return None
        return _bisect(
            lambda channels: self._can_afford(choose(channels)),
            affordable=1,
            too_many=self.alive,
        )

    def _allocate(self, channels: int) -> Keeps:
        sizes = {name: len(score) for name, score in self.importance.items()}
        budget = Budget(channels, sizes, NoShapes())
        return self.selection.allocation.allocate(self.importance, budget)

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


def _draws_channels(selection: Selection) -> bool:
    """Return whether channels are drawn at random and stand for others."""
    return bool(getattr(selection.sparsifier, "reweights", False))


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


def _intersect(new: Masks, old: Masks) -> Masks:
    return {name: mask & old[name] if name in old else mask for name, mask in new.items()}


def _explain_dense(left_dense: Mapping[str, str]) -> str:
    """Return a clause that names the layers left dense, empty without any."""
    if not left_dense:
        return ""
    name, reason = next(iter(left_dense.items()))
    return f" ({len(left_dense)} layers are left dense; {name}: {reason})"
