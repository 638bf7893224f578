"""N:M against brute force, group by group."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pruning.errors import BudgetError, ParameterError
from pruning.evidence.evidence import Evidence
from pruning.granularities import granularities
from pruning.granularities._patterns import flatten
from pruning.granularities.n_m import NM
from pruning.masks import build_full_masks, count_kept, density, find_prunable
from pruning.rounds.method import PruningMethod
from pruning.rounds.pruning import prune_
from pruning.schemas.recipe import Method
from pruning.seeding import seeded
from pruning.types import Masks, Scores
from tests.support import cases
from tests.support.granularity_cases import (
    build_matrix,
    build_net,
    draw_scores,
    list_blocks,
    list_entries,
    select,
)


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
@pytest.mark.parametrize(
    ("target", "high", "pruned"),
    [(None, 4, False), (None, 1000, True), (0.8, 4, True), (0.9, 1000, False)],
)
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
    with seeded(0):
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


def test_n_m_divides_the_budget_itself() -> None:
    with pytest.raises(ParameterError, match="the allocation must be global") as caught:
        select(NM(), build_net(), 0.5, draw_scores(build_net()), allocation="uniform")
    assert caught.value.pointer == "/allocation"
