"""Blocks, and what all patterns share, against brute force."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pruning.allocations import allocations
from pruning.errors import BudgetError, ParameterError
from pruning.granularities._patterns import flatten, unflatten
from pruning.granularities.block import Block
from pruning.granularities.n_m import NM
from pruning.masks import build_full_masks, count_kept, density, find_prunable
from pruning.types import Budget, Granularity, Keeps, Masks, Scores, Selection, Sparse
from tests.support.granularity_cases import (
    build_matrix,
    build_net,
    draw_scores,
    list_blocks,
    list_entries,
    select,
)


def test_the_matrix_has_the_input_channel_fastest() -> None:
    weight = torch.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    assert flatten(weight).tolist() == build_matrix(weight)
    assert torch.equal(unflatten(flatten(weight), weight.shape), weight)


def select_best_blocks(scores: Scores, masks: Masks, rows: int, columns: int, keep: int) -> Masks:
    """Select blocks of the whole network in the order of their sums.

    At most `keep` weights remain.
    """
    ranked: list[tuple[float, int, str, list[tuple[int, ...]]]] = []
    for name, score in scores.items():
        for members in list_blocks(build_matrix(score), rows, columns).values():
            alive = [
                index
                for index in (list_entries(score, *member) for member in members)
                if masks[name][index]
            ]
            if alive:
                ranked.append(
                    (-sum(float(score[index]) for index in alive), len(ranked), name, alive)
                )
    best_masks = {name: torch.zeros_like(mask) for name, mask in masks.items()}
    for *_, name, alive in sorted(ranked, key=lambda entry: entry[:2]):
        keep -= len(alive)
        if keep < 0:
            break
        for index in alive:
            best_masks[name][index] = True
    return best_masks


@pytest.mark.parametrize(("rows", "columns"), [(1, 4), (1, 1), (2, 2), (4, 4), (4, 1), (2, 4)])
@pytest.mark.parametrize("target", [0.9, 0.5, 0.1])
@pytest.mark.parametrize("high", [3, 1000])
def test_blocks_are_those_of_brute_force(rows: int, columns: int, target: float, high: int) -> None:
    model = build_net()
    scores = draw_scores(model, high=high)
    masks, left_dense = select(Block(rows, columns), model, target, scores)
    total = sum(mask.numel() for mask in masks.values())
    assert left_dense == {}
    assert target - rows * columns / total < density(masks) <= target + 0.5 / total
    keep = total - round((1 - target) * total)
    expected = select_best_blocks(
        scores, build_full_masks(find_prunable(model)), rows, columns, keep
    )
    assert all(torch.equal(masks[name], mask) for name, mask in expected.items())


@pytest.mark.parametrize("target", [0.4, 0.25, 0.05])
def test_blocks_pruned_in_part_cost_what_remains_of_them(target: float) -> None:
    model = build_net()
    rng = torch.Generator().manual_seed(1)
    before = {
        name: torch.rand(weight.shape, generator=rng) < 0.5
        for name, weight in find_prunable(model).items()
    }
    scores = draw_scores(model)
    masks, _ = select(Block(2, 2), model, target, scores, before)
    total = sum(mask.numel() for mask in masks.values())
    expected = select_best_blocks(scores, before, 2, 2, total - round((1 - target) * total))
    assert all(torch.equal(masks[name], mask) for name, mask in expected.items())
    assert target - 4 / total < density(masks) <= target + 0.5 / total


def test_layers_that_do_not_divide_stay_dense_and_the_others_make_up_for_them() -> None:
    model = build_net(stem=3)  # rows of 27
    masks, left_dense = select(Block(), model, 0.5, draw_scores(model))
    assert left_dense == {"0.weight": "its matrix of 8 x 27 weights does not divide into 1 x 4"}
    assert masks["0.weight"].all()
    total = sum(mask.numel() for mask in masks.values())
    assert 0.5 - 4 / total < density(masks) <= 0.5
    with pytest.raises(
        BudgetError,
        match=r"density 0\.37 cannot be reached with blocks of 1 x 4: .* one block it is 0\.38",
    ):
        select(Block(), model, 0.37, draw_scores(model))
    with pytest.raises(
        BudgetError, match=r"no layer can be pruned: 0\.weight: its matrix of 8 x 27"
    ):
        select(Block(columns=1024), model, 0.5, draw_scores(model))


@pytest.mark.parametrize("allocation", ["uniform", "erk", "uniform_plus"])
def test_allocations_divide_blocks(allocation: str) -> None:
    model = build_net(stem=3)
    scores = draw_scores(model)
    masks, left_dense = select(Block(), model, 0.6, scores, allocation=allocation)
    assert set(left_dense) == {"0.weight"}
    total = sum(mask.numel() for mask in masks.values())
    assert 0.6 - 4 / total < density(masks) <= 0.6
    sizes = {name: find_prunable(model)[name].numel() for name in ("2.weight", "5.weight")}
    keep = total - round(0.4 * total) - masks["0.weight"].numel()
    blocks = {name: torch.zeros(size // 4) for name, size in sizes.items()}
    shapes = {name: tuple(weight.shape) for name, weight in find_prunable(model).items()}
    expected: Keeps = allocations.create(allocation).allocate(blocks, Budget(keep, sizes, shapes))
    assert {name: count_kept(masks)[name] for name in sizes} == expected


def test_a_target_that_is_reached_already_removes_nothing() -> None:
    model = build_net()
    before = {
        name: (torch.arange(mask.numel()) % 4 == 0).view_as(mask)
        for name, mask in build_full_masks(find_prunable(model)).items()
    }
    for allocation in ("global", "uniform"):
        masks, _ = select(Block(), model, 0.3, draw_scores(model), before, allocation)
        assert all(torch.equal(masks[name], before[name]) for name in before)
    masks, _ = select(NM(n=3), model, 0.8, draw_scores(model), before)
    assert all(torch.equal(masks[name], before[name]) for name in before)


@pytest.mark.parametrize("granularity", [Block(), NM()])
def test_scores_of_filters_count_for_each_of_their_weights(granularity: Granularity) -> None:
    model = build_net()
    filters = {
        name: torch.rand(
            weight.shape[0],
            *[1] * (weight.dim() - 1),
            dtype=torch.float64,
            generator=torch.Generator().manual_seed(3),
        )
        for name, weight in find_prunable(model).items()
    }
    spread = {
        name: score.expand_as(find_prunable(model)[name]).clone() for name, score in filters.items()
    }
    partly = {
        name: (torch.arange(mask.numel()) % 7 != 0).view_as(mask)
        for name, mask in build_full_masks(find_prunable(model)).items()
    }
    for before in (None, partly):
        first, second = (
            select(granularity, model, 0.6, scores, before)[0] for scores in (filters, spread)
        )
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert 0.59 < density(first) <= 0.6


# what does not go together


class Doubling:
    """A sparsifier of another kind."""

    def sparsify(
        self, weight: Tensor, score: Tensor, keep: int, generator: torch.Generator
    ) -> Sparse:
        raise AssertionError("not asked")


@pytest.mark.parametrize("granularity", [Block(), NM()])
def test_only_top_k_keeps_blocks_and_patterns(granularity: Granularity) -> None:
    model = build_net()
    weights = {name: weight.detach() for name, weight in find_prunable(model).items()}
    with pytest.raises(ParameterError, match="the sparsifier must be top_k") as caught:
        granularity.select(
            Selection(
                model=model,
                weights=weights,
                scores=draw_scores(model),
                masks=build_full_masks(weights),
                density=0.5,
                allocation=allocations.create("global"),
                sparsifier=Doubling(),
                generator=torch.Generator(),
                shape=lambda: (4, 4, 4),
            )
        )
    assert caught.value.pointer == "/sparsifier"
