"""Structured pruning: whole channels go, with every row, column, bias and BatchNorm parameter that
belongs to them.

Source: Fang et al., DepGraph: towards any structural pruning, CVPR 2023 (coupled groups; mean over
the members of a group; normalisation by the group's mean).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NoReturn

import torch
from torch import Tensor

from pruning.allocations.global_ import Global
from pruning.channels.drawn_channels import DrawnChannels
from pruning.channels.graph import ChannelGraph
from pruning.channels.slicing import slice_channels
from pruning.errors import BudgetError, ParameterError, ScoreError
from pruning.granularities import granularities
from pruning.masks import count_kept, select_top, select_weight_masks
from pruning.types import Budget, Keeps, Masks, Selected, Selection


class _NoShapes(dict[str, tuple[int, ...]]):
    """What an allocation meets that asks for the shapes of weights."""

    def __missing__(self, name: str) -> NoReturn:
        raise ParameterError(
            "this allocation divides weights by their shapes and cannot divide channels; use "
            "global or "
            "uniform",
            pointer="/allocation",
        )


@granularities.register("channel")
@dataclass(frozen=True)
class Channel:
    """Whole channels, coupled ones together: the network becomes smaller and faster, not only
    sparser.

    Channels that only go together form a unit; units side by side in the same layers form a group,
    which the allocation treats as a layer. A unit's importance is the mean over the layers it is a
    part of (and over its channels in a layer) of what the criterion gives to a channel: the sum of
    a score per weight over what writes the channel, a score per filter or per input channel as it
    is. Under `global`, `normalize` divides by the mean of the group's absolute importance, so that
    groups can compete. At least one unit of every group remains: the most important ones as they
    are, or, where the sparsifier reweights, those it draws by importance, once for each group; see
    `pruning.channels.drawn_channels`.

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
    ...     net,
    ...     weights,
    ...     scores,
    ...     masks,
    ...     0.5,
    ...     allocations.create("global"),
    ...     sparsifiers.create("top_k"),
    ...     torch.Generator(),
    ...     lambda: (1, 1, 1),
    ... )
    >>> Channel().select(selection).masks
    {'1.weight': tensor([[False],
            [ True]]), '2.weight': tensor([[False,  True],
            [False,  True]])}
    """

    compacts: ClassVar[bool] = True
    normalize: bool = True

    def select(self, selection: Selection) -> Selected:
        """The most channels with which the density, in weights, is at most the one asked for; found
        by bisection.

        Of channels that are drawn, so many distinct ones are expected of every group: the density
        may be another one. Masks stay as they are where the density is reached already. Raises
        `BudgetError` where one channel of every group is still too much, `StructureError` for a
        network whose channels cannot be told apart.
        """
        graph = ChannelGraph.of(selection.model, selection.shape(), selection.weights)
        left_dense = graph.left_dense(selection.model, selection.weights)
        old = select_weight_masks(selection.masks)
        total = sum(mask.numel() for mask in old.values())
        budget = math.floor(selection.density * total + 1e-6)
        if sum(count_kept(old).values()) <= budget:
            return Selected(selection.masks, dict(selection.weights), left_dense)
        before = graph.kept(selection.model, selection.masks)
        importance = self.importance(graph, selection, before)
        counted = _Counter(graph, selection, old)

        def keep(channels: int) -> Tensor:
            """The channels that remain of so many to be allocated."""
            sizes = {name: len(score) for name, score in importance.items()}
            keeps = selection.allocation.allocate(importance, Budget(channels, sizes, _NoShapes()))
            return _best(graph, importance, keeps, before)

        few, many = 1, int(sum(int((score > -math.inf).sum()) for score in importance.values()))
        least = counted(graph.closed(keep(few))) if many else sum(count_kept(old).values())
        if least > budget:
            raise BudgetError(
                f"density {selection.density:.4g} cannot be had by removing channels: with one "
                "of each group "
                f"it is {least / total:.4g}{_because(left_dense)}"
            )
        few = _bisect(lambda channels: counted(graph.closed(keep(channels))) <= budget, few, many)
        remaining, weights, laws = graph.closed(keep(few)), selection.weights, {}
        if getattr(selection.sparsifier, "reweights", False):
            drawn = DrawnChannels.of(
                graph, importance, keep(few), selection.sparsifier, selection.generator
            )
            remaining = graph.closed(drawn.factors > 0)
            weights, laws = (
                drawn.reweighted(selection.model, weights),
                drawn.laws(selection.model, weights),
            )
        masks = selection.masks | _meet(graph.masks(selection.model, remaining), selection.masks)
        return Selected(
            masks,
            {name: weight.masked_fill(~masks[name], 0.0) for name, weight in weights.items()},
            left_dense,
            laws,
        )

    def importance(
        self, graph: ChannelGraph, selection: Selection, before: Tensor
    ) -> dict[str, Tensor]:
        """By group, one float64 number for each channel, -inf for what is removed; `ScoreError`
        where no layer is scored.
        """
        total, members = torch.zeros(2, graph.size, dtype=torch.float64)
        by_input = _by_input(selection)
        for name, weight in selection.weights.items():
            owner, score = name.rpartition(".")[0], selection.scores[name].double().cpu()
            if owner not in graph.outputs or not _faces(score, weight, by_input):
                continue
            score = score.masked_fill(score == -math.inf, 0.0)
            if by_input:
                channels = graph.inputs[owner]
                values = score.flatten().repeat(len(channels) // score.numel())
            else:
                channels, values = graph.outputs[owner], score.flatten(1).sum(1)
            places = torch.zeros_like(total).index_add_(0, channels, torch.ones_like(values))
            total += torch.zeros_like(total).index_add_(0, channels, values) / places.clamp_min(1.0)
            members += places > 0
        found = {}
        for group in graph.removable:
            if not members[group.span].all():
                raise ScoreError(
                    "the criterion scores none of the layers to which the channels of "
                    f"{group.name} belong"
                )
            alive, mean = before[group.span], total[group.span] / members[group.span]
            normalize = self.normalize and isinstance(selection.allocation, Global)
            scale = mean[alive].abs().mean() if normalize and alive.any() else torch.tensor(1.0)
            found[group.name] = (mean / (scale if scale > 0 else 1.0)).masked_fill(
                ~alive, -math.inf
            )
        return found


class _Counter:
    """Counts the weights that remain with some of the channels."""

    def __init__(self, graph: ChannelGraph, selection: Selection, masks: Masks) -> None:
        self.graph, self.model = graph, selection.model
        self.masks = {
            name: mask for name, mask in masks.items() if name.rpartition(".")[0] in graph.inputs
        }
        self.others = sum(
            count_kept(
                {name: mask for name, mask in masks.items() if name not in self.masks}
            ).values()
        )

    def __call__(self, keep: Tensor) -> int:
        found = self.others
        for name, mask in self.masks.items():
            owner = name.rpartition(".")[0]
            index = slice_channels(
                self.model.get_submodule(owner), *self.graph.kept_of(owner, keep)
            )["weight"]
            found += int(mask[index].sum())
        return found


def _by_input(selection: Selection) -> bool:
    """Whether the criterion scores input channels.

    A score as large as a weight with a single output could be either: it is what another shows.
    """
    return any(
        _faces(score, selection.weights[name], True)
        and not _faces(score, selection.weights[name], False)
        for name, score in selection.scores.items()
    )


def _faces(score: Tensor, weight: Tensor, by_input: bool) -> bool:
    """Whether the score tells a layer's input channels apart, or its outputs."""
    if by_input:
        return score.shape[:2] == (1, weight.shape[1]) and score.numel() == weight.shape[1]
    return score.shape[0] == weight.shape[0]


def _best(
    graph: ChannelGraph, importance: Mapping[str, Tensor], keeps: Keeps, before: Tensor
) -> Tensor:
    keep = before.clone()
    for group in graph.removable:
        alive = int(before[group.span].sum())
        keep[group.span] = select_top(importance[group.name], min(alive, max(1, keeps[group.name])))
    return keep


def _bisect(affordable: Callable[[int], bool], few: int, many: int) -> int:
    """A count that can be afforded where the next one cannot; `few` can, `many` cannot."""
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (middle, many) if affordable(middle) else (few, middle)
    return few


def _meet(new: Masks, old: Masks) -> Masks:
    return {name: mask & old[name] if name in old else mask for name, mask in new.items()}


def _because(left_dense: Mapping[str, str]) -> str:
    name = next(iter(left_dense), None)
    return (
        ""
        if name is None
        else f" ({len(left_dense)} layers are left dense; {name}: {left_dense[name]})"
    )
