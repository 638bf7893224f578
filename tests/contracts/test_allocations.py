"""What every allocation must keep."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pruning
from pruning.allocations import allocations
from pruning.masks import count_kept
from pruning.types import Budget, Masks, Scores

fast = settings(max_examples=30, deadline=None, derandomize=True)


@st.composite
def layered(draw: st.DrawFn) -> tuple[Scores, Masks, int]:
    """Scores of up to four layers, partly dead, with ties; and how many of the living to keep."""
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scores: Scores = {}
    masks: Masks = {}
    for index in range(draw(st.integers(1, 4))):
        size = draw(st.integers(1, 30))
        mask = torch.rand(size, generator=rng) < draw(st.sampled_from([0.2, 0.7, 1.0]))
        score = torch.randint(0, 6, (size,), generator=rng).double()
        scores[f"layer{index}"], masks[f"layer{index}"] = score.masked_fill(~mask, -math.inf), mask
    alive = sum(count_kept(masks).values())
    return scores, masks, draw(st.integers(1, alive)) if alive else 0


@pytest.mark.parametrize("name", allocations.names())
class TestAllocation:
    @fast
    @given(drawn=layered())
    def test_spends_the_budget_exactly_on_what_is_alive(
        self, name: str, drawn: tuple[Scores, Masks, int]
    ) -> None:
        scores, masks, keep = drawn
        if not keep:
            return
        before = {key: score.clone() for key, score in scores.items()}
        keeps = allocations.create(name).allocate(
            scores, Budget(keep, {k: m.numel() for k, m in masks.items()})
        )
        assert list(keeps) == list(scores)
        assert all(isinstance(kept, int) for kept in keeps.values())
        assert sum(keeps.values()) == keep
        assert all(0 <= keeps[key] <= int(masks[key].sum()) for key in keeps)
        assert all(torch.equal(score, before[key]) for key, score in scores.items())

    @pytest.mark.parametrize("keep", [1, 2, 9, 10, 35, 53, 54])
    def test_filters_are_kept_whole(self, name: str, keep: int) -> None:
        scores = {
            "conv1": torch.rand(3, 1, 1, 1, generator=torch.Generator().manual_seed(1)),
            "conv2": torch.rand(1, 3, 1, 1, generator=torch.Generator().manual_seed(2)),
        }
        sizes = {"conv1": 27, "conv2": 27}
        keeps = allocations.create(name).allocate(scores, Budget(keep, sizes))
        assert sum(keeps.values()) <= keep
        assert all(kept % 9 == 0 and kept <= sizes[key] for key, kept in keeps.items())
        assert keep - sum(keeps.values()) < 9, "another whole filter would have fitted"

    def test_refuses_more_than_remains(self, name: str) -> None:
        scores = {"a": torch.tensor([1.0, -math.inf, -math.inf]), "b": torch.full((2,), -math.inf)}
        with pytest.raises(pruning.errors.BudgetError):
            allocations.create(name).allocate(scores, Budget(2, {"a": 3, "b": 2}))
