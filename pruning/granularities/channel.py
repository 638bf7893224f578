"""Structured pruning: whole channels are removed, with every row, column, bias and BatchNorm
parameter that belongs to them.

Source: Fang et al., DepGraph: towards any structural pruning, CVPR 2023 (coupled groups; mean over
the members of a group; normalisation by the group's mean).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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
from pruning.granularities._channel_choice import ChannelChoice, WeightCounter
from pruning.granularities._channel_scores import distinguishes, scores_inputs
from pruning.granularities._overridden_groups import count_overridden
from pruning.masks import count_kept, select_weight_masks
from pruning.networks.layers import name_layer
from pruning.types import DrawLaw, Masks, Selected, Selection

DEFAULT_MULTIPLE = 8
"""The multiple that is tried by default: the floats that a vector register of CPUs holds."""


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
    overrides: ClassVar[bool] = True
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

        A group with an override keeps exactly the channels that this asks for, and those between
        two of them along shortcuts. Masks stay as they are where the density is reached already.
        Raises `BudgetError` where one channel of every group is still too much, or the groups with
        overrides leave no other that could bring the density there, `ParameterError` for an
        override of a layer whose channels stay, or that differs from that of another layer of its
        group, `StructureError` for a network whose channels cannot be distinguished.
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
        counter = WeightCounter(graph, old)
        fixed = count_overridden(graph, selection, before)
        if fixed and _draws_channels(selection):
            raise ParameterError(
                "overrides: where channels are drawn, how many distinct ones remain is random; use "
                "the sparsifier top_k",
                pointer="/overrides",
            )
        choice = ChannelChoice(
            graph=graph,
            selection=selection,
            importance=importance,
            before=before,
            counter=counter,
            budget=budget,
            fixed=fixed,
        )
        choice.refuse_too_sparse(total)
        chosen = self._choose(choice, can_round=not _draws_channels(selection))
        if chosen is None:
            multiple = self.round_to or 1
            least = choice.count_least(multiple) if choice.alive or fixed else old_count
            raise BudgetError(
                f"density {selection.density:.4g} cannot be reached by removing channels: with "
                f"{'one' if multiple == 1 else multiple} of each group "
                f"{'that has no override ' if fixed else ''}it is "
                f"{least / total:.4g}{_explain_dense(left_dense)}"
            )
        return _apply_choice(graph, selection, importance, chosen, left_dense)

    def _choose(self, choice: ChannelChoice, *, can_round: bool) -> Tensor | None:
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


def _draws_channels(selection: Selection) -> bool:
    """Return whether channels are drawn at random and stand for others."""
    return bool(getattr(selection.sparsifier, "reweights", False))


def _intersect(new: Masks, old: Masks) -> Masks:
    return {name: mask & old[name] if name in old else mask for name, mask in new.items()}


def _explain_dense(left_dense: Mapping[str, str]) -> str:
    """Return a clause that names the layers left dense, empty without any."""
    if not left_dense:
        return ""
    name, reason = next(iter(left_dense.items()))
    return f" ({len(left_dense)} layers are left dense; {name}: {reason})"
