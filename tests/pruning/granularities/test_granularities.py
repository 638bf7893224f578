"""Blocks and N:M against brute force, group by group."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from pruning.allocations import allocations
from pruning.errors import BudgetError, ParameterError
from pruning.evidence.evidence import Evidence
from pruning.granularities import granularities
from pruning.granularities._patterns import flatten, unflatten
from pruning.granularities.block import Block
from pruning.granularities.n_m import NM
from pruning.masks import build_full_masks, count_kept, density, find_prunable
from pruning.rounds.method import PruningMethod
from pruning.rounds.pruning import prune_
from pruning.schemas.recipe import Method
from pruning.sparsifiers.top_k import TopK
from pruning.types import Budget, Granularity, Keeps, Masks, Scores, Selection, Sparse
from tests.support import cases


def build_net(stem: int = 4) -> nn.Sequential:
    """Build a convolution of `stem` input channels, another, and a head."""
    return nn.Sequential(
        nn.Conv2d(stem, 8, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(8, 4, 2, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36, 8),
    )


def draw_scores(model: nn.Module, seed: int = 0, high: int = 1000) -> Scores:
    """Draw whole numbers, so that sums are exact and ties occur."""
    rng = torch.Generator().manual_seed(seed)
    return {
        name: torch.randint(1, high, weight.shape, generator=rng).double()
        for name, weight in find_prunable(model).items()
    }


def select(
    granularity: Granularity,
    model: nn.Module,
    target: float,
    scores: Scores,
    masks: Masks | None = None,
    allocation: str = "global",
) -> tuple[Masks, dict[str, str]]:
    weights = {name: weight.detach() for name, weight in find_prunable(model).items()}
    masks = masks or build_full_masks(weights)
    alive = {
        name: score.masked_fill(~masks[name], -math.inf)
        if score.shape == masks[name].shape
        else score
        for name, score in scores.items()
    }
    selected = granularity.select(
        Selection(
            model=model,
            weights=weights,
            scores=alive,
            masks=masks,
            density=target,
            allocation=allocations.create(allocation),
            sparsifier=TopK(),
            generator=torch.Generator(),
            shape=lambda: (4, 4, 4),
        )
    )
    assert all(not (selected.masks[name] & ~masks[name]).any() for name in masks), (
        "masks are not nested"
    )
    return selected.masks, dict(selected.left_dense)


def list_entries(weight: Tensor, row: int, column: int) -> tuple[int, ...]:
    """List the indices into the weight of its matrix's entries.

    In the order kernel row, kernel column, input channel.
    """
    if weight.dim() == 2:
        return row, column
    _, channels, _, width = weight.shape
    place, channel = divmod(column, channels)
    return row, channel, place // width, place % width


def build_matrix(value: Tensor) -> list[list[float]]:
    """Build the matrix with the input channel fastest, entry by entry."""
    return [
        [value[list_entries(value, row, column)].item() for column in range(value[0].numel())]
        for row in range(len(value))
    ]


def test_the_matrix_has_the_input_channel_fastest() -> None:
    weight = torch.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    assert flatten(weight).tolist() == build_matrix(weight)
    assert torch.equal(unflatten(flatten(weight), weight.shape), weight)


# blocks


def list_blocks(
    matrix: list[list[float]], rows: int, columns: int
) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """List the members of every block."""
    members: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for row, column in itertools.product(range(len(matrix)), range(len(matrix[0]))):
        members.setdefault((row // rows, column // columns), []).append((row, column))
    return members


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


# N:M


def select_best_n_of_m(scores: Scores, masks: Masks, n: int, m: int, keep: int) -> Masks:
    """Select the n best of every m, then the best of the others in the whole network.

    Ties follow the order of the matrices.
    """
    best_masks = {name: torch.zeros_like(mask) for name, mask in masks.items()}
    others: list[tuple[float, int, str, tuple[int, ...]]] = []
    for name, score in scores.items():
        for members in list_blocks(build_matrix(score), 1, m).values():
            alive = [
                index
                for index in (list_entries(score, *member) for member in members)
                if masks[name][index]
            ]
            ranked = sorted(alive, key=lambda index, score=score: -float(score[index]))  # type: ignore[misc]
            for index in ranked[:n]:
                best_masks[name][index] = True
                keep -= 1
            others += [
                (-float(score[index]), 0, name, index) for index in alive if index not in ranked[:n]
            ]
    for *_, name, index in sorted(others, key=lambda entry: entry[0])[: max(0, keep)]:
        best_masks[name][index] = True
    return best_masks


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 4), (1, 2), (1, 12)])
@pytest.mark.parametrize("target", [None, 0.8, 0.9])
@pytest.mark.parametrize("high", [4, 1000])
@pytest.mark.parametrize("pruned", [False, True])
def test_n_of_m_are_those_of_brute_force(
    n: int, m: int, target: float | None, high: int, pruned: bool
) -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(12, 4, 1), nn.Flatten(), nn.Linear(24, 3))
    scores = draw_scores(model, high=high)
    before = build_full_masks(find_prunable(model))
    if pruned:
        rng = torch.Generator().manual_seed(2)
        before = {
            name: torch.rand(mask.shape, generator=rng) < 0.9 for name, mask in before.items()
        }
    target = n / m if target is None else target
    masks, left_dense = select(NM(n, m), model, target, scores, before)
    assert left_dense == {}
    total = sum(mask.numel() for mask in masks.values())
    keep = min(total - round((1 - target) * total), sum(count_kept(before).values()))
    expected = select_best_n_of_m(scores, before, n, m, keep)
    assert all(torch.equal(masks[name], mask) for name, mask in expected.items())
    assert sum(count_kept(masks).values()) == max(
        keep, sum(count_kept(select_best_n_of_m(scores, before, n, m, 0)).values())
    )
    if target == n / m and not pruned:
        for mask in masks.values():
            assert (flatten(mask).reshape(-1, m).sum(1) == n).all()
        assert density(masks) == n / m


def test_two_of_four_with_a_stem_that_does_not_divide_is_a_little_denser_than_half() -> None:
    model = build_net(stem=3)
    masks, left_dense = select(NM(), model, 0.5, draw_scores(model))
    assert left_dense == {"0.weight": "its matrix of 8 x 27 weights does not divide into 1 x 4"}
    assert masks["0.weight"].all()
    assert all(
        (flatten(masks[name]).reshape(-1, 4).sum(1) == 2).all() for name in ("2.weight", "5.weight")
    )
    least = density(masks)
    assert least == pytest.approx((216 + 0.5 * (64 + 288)) / 568)
    again, _ = select(NM(), model, 0.6, draw_scores(model))
    assert all(torch.equal(again[name], masks[name]) for name in masks), (
        "between 0.5 and the least, the least"
    )
    assert density(select(NM(), model, 0.8, draw_scores(model))[0]) == pytest.approx(
        0.8, abs=1 / 568
    )
    with pytest.raises(
        BudgetError, match=r"density 0\.1 cannot be reached with 2:4: the least is 0\.690"
    ):
        select(NM(), model, 0.1, draw_scores(model))
    with pytest.raises(BudgetError, match=r"density 0\.49 cannot be reached"):
        select(NM(), build_net(), 0.49, draw_scores(build_net()))


@pytest.mark.parametrize("criterion", ["magnitude", "synflow", "taylor"])
def test_n_m_is_reached_in_rounds_and_stages(criterion: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_net()
    masks = build_full_masks(find_prunable(model))
    batches = [
        (torch.randn(6, 4, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6))
    ]
    recipe = cases.recipe(0.5, granularity={"name": "n_m"})
    for target in (0.8, 0.6, 0.5):
        masks = prune_(
            model,
            masks,
            target,
            PruningMethod.of(recipe, Method(name=criterion)),
            lambda masks, stage: Evidence(model, masks, batches),
            generator=torch.Generator(),
        )
    assert all((flatten(mask).reshape(-1, 4).sum(1) == 2).all() for mask in masks.values())
    assert all(not weight[~masks[name]].any() for name, weight in find_prunable(model).items())


def test_n_is_less_than_m() -> None:
    for n, m in ((4, 4), (5, 4)):
        with pytest.raises(ParameterError, match=f"{n}:{m} removes nothing") as caught:
            granularities.create("n_m", {"n": n, "m": m})
        assert caught.value.pointer == "/granularity/params/n"


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


def test_n_m_divides_the_budget_itself() -> None:
    with pytest.raises(ParameterError, match="the allocation must be global") as caught:
        select(NM(), build_net(), 0.5, draw_scores(build_net()), allocation="uniform")
    assert caught.value.pointer == "/allocation"
