"""Channels in multiples: which widths remain, how near the budget is, and when 8 is the default."""

from __future__ import annotations

import math

import pytest
import torch

from pruning.channels.graph import ChannelGraph
from pruning.errors import BudgetError, ParameterError
from pruning.granularities import granularities
from pruning.granularities._channel_choice import WeightCounter
from pruning.granularities._rounding import Rounding
from pruning.masks import (
    build_full_masks,
    density,
    find_prunable,
    select_top,
    select_weight_masks,
)
from pruning.networks.loading import load_model
from tests.support.channel_nets import select, widths

SHAPE = (3, 16, 16)


def build(width: float = 1.0) -> torch.nn.Module:
    torch.manual_seed(1)
    return load_model("cifar_resnet", depth=8, width=width)


@pytest.mark.parametrize(("allocation", "multiple"), [("global", 8), ("uniform", 4)])
def test_multiples_remain_in_every_group(allocation: str, multiple: int) -> None:
    """The shortcuts of this network keep channels that lie between two others, too. No further
    multiple of any group would fit into the budget.
    """
    model, target = build(), 0.4
    masks = select(model, SHAPE, target, allocation=allocation, round_to=multiple).masks
    kept = widths(model, masks, SHAPE)
    assert all(width % multiple == 0 for width in kept.values()), kept
    assert density(masks) <= target
    graph = ChannelGraph.of(model, SHAPE, select_weight_masks(masks))
    keep = graph.kept(model, masks)
    full = build_full_masks(find_prunable(model))
    for group in graph.removable:
        removed = (~keep[group.span]).nonzero().flatten()[:multiple]
        if len(removed):
            more = keep.clone()
            more[group.start + removed] = True
            assert density(full | graph.masks(model, graph.closed(more))) > target, group.name


def choose_slowly(rounding: Rounding, counts: dict[str, int]) -> torch.Tensor:
    """The choice of `counts` channels by `select_top`, filled up where shortcuts add some."""
    keep = rounding.before.clone()
    for group in rounding.graph.removable:
        keep[group.span] = select_top(rounding.importance[group.name], counts[group.name])
    while True:
        keep = rounding.graph.closed(keep)
        grown = keep.clone()
        for group in rounding.graph.removable:
            kept, before = keep[group.span], int(rounding.before[group.span].sum())
            count = min(before, math.ceil(int(kept.sum()) / rounding.multiple) * rounding.multiple)
            score = rounding.importance[group.name]
            grown[group.span] = select_top(score.masked_fill(kept, math.nextafter(1e9, 0)), count)
        if torch.equal(grown, keep):
            return keep
        keep = grown


@pytest.mark.parametrize("seed", range(5))
def test_choices_are_those_of_selections_and_their_weights_those_of_masks(seed: int) -> None:
    """Importances are whole numbers, so that many are equal; some channels are gone."""
    model = build()
    weights = find_prunable(model)
    graph = ChannelGraph.of(model, SHAPE, list(weights))
    generator = torch.Generator().manual_seed(seed)
    gone = torch.rand(graph.size, generator=generator) < 0.2
    before = torch.ones(graph.size, dtype=torch.bool)
    importance = {}
    for group in graph.removable:
        before[group.span] &= ~gone[group.span]
    before = graph.closed(before)
    for group in graph.removable:
        score = torch.randint(0, 5, (group.size,), generator=generator).double()
        importance[group.name] = score.masked_fill(~before[group.span], -math.inf)
    rounding = Rounding(graph, importance, before, 4)
    old = build_full_masks(weights) | graph.masks(model, before)
    counter = WeightCounter(graph, select_weight_masks(old))
    for share in (0.2, 0.5, 0.8):
        keeps = {name: int(share * len(score)) for name, score in importance.items()}
        counts = rounding.round_down(keeps)
        chosen = rounding.choose(counts)
        assert torch.equal(chosen, choose_slowly(rounding, counts))
        masks = select_weight_masks(old | graph.masks(model, chosen))
        left = sum(int((mask & old[name]).sum()) for name, mask in masks.items())
        assert counter.count(chosen) == left


def test_a_second_round_is_nested() -> None:
    model = build()
    first = select(model, SHAPE, 0.7, round_to=8).masks
    second = select(model, SHAPE, 0.4, masks=first, round_to=8).masks
    assert all(not bool((second[name] & ~first[name]).any()) for name in first)
    assert all(width % 8 == 0 for width in widths(model, second, SHAPE).values())


def test_eight_is_the_default_where_it_costs_nothing() -> None:
    """With scores that fall into eights, multiples keep what single channels keep; with narrow
    layers they would cost, and single channels are chosen.
    """
    model = build()
    scores = {}
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            order = torch.arange(weight.shape[0]) < weight.shape[0] // 2
            scores[name] = (0.001 + order.float())[:, None].expand(weight.flatten(1).shape)
            scores[name] = scores[name].reshape(weight.shape)
    target = density(select(model, SHAPE, 0.26, scores=scores, round_to=8).masks)
    default = select(model, SHAPE, target + 1e-4, scores=scores, round_to=None)
    assert all(width % 8 == 0 for width in widths(model, default.masks, SHAPE).values())
    assert density(default.masks) == target
    narrow = build(width=0.25)
    single = select(narrow, SHAPE, 0.5)
    same = select(narrow, SHAPE, 0.5, round_to=None)
    assert all(torch.equal(mask, same.masks[name]) for name, mask in single.masks.items())


def test_a_budget_below_one_multiple_of_each_group_is_refused() -> None:
    with pytest.raises(BudgetError, match="with 16 of each group"):
        select(build(), SHAPE, 0.01, round_to=16)


def test_draws_and_granularities_without_channels_are_refused() -> None:
    with pytest.raises(ParameterError, match="round_to: where channels are drawn"):
        select(build(), SHAPE, 0.5, round_to=8, sparsifier="sample")
    for name in ("weight", "block", "n_m", "filter"):
        with pytest.raises(ParameterError, match="round_to"):
            granularities.create(name, {"round_to": 8})
