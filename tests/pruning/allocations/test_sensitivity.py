"""The allocation `sensitivity` against every choice there is, and on curves that are measured."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.allocations.global_ import Global
from pruning.allocations.sensitivity import Sensitivity, find_envelope
from pruning.types import Budget, LossCurve, Scores

fast = settings(max_examples=60, deadline=None, derandomize=True)


def draw_scores(sizes: dict[str, int]) -> Scores:
    rng = torch.Generator().manual_seed(0)
    return {name: torch.rand(size, generator=rng) for name, size in sizes.items()}


@st.composite
def convex(draw: st.DrawFn) -> tuple[dict[str, LossCurve], dict[str, int], int]:
    """Convex curves known at every count of up to three small layers, and a budget."""
    sizes = {f"layer{index}": draw(st.integers(1, 6)) for index in range(draw(st.integers(1, 3)))}
    curves = {}
    for name, size in sizes.items():
        # The last weight costs most: what goes first is cheapest.
        rises = sorted(draw(st.lists(st.integers(-3, 9), min_size=size, max_size=size)))
        changes = list(itertools.accumulate(rises))
        kept = [(size - removed) / size for removed in range(1, size + 1)]
        curves[name] = LossCurve(tuple(kept), tuple(map(float, changes)))
    return curves, sizes, draw(st.integers(1, sum(sizes.values())))


def lose(curves: dict[str, LossCurve], sizes: dict[str, int], keeps: dict[str, int]) -> float:
    """The sum of the changes of these counts."""
    total = 0.0
    for name, keep in keeps.items():
        removed = sizes[name] - keep
        total += curves[name].changes[removed - 1] if removed else 0.0
    return total


@fast
@given(drawn=convex())
def test_no_other_counts_lose_less_on_convex_curves(
    drawn: tuple[dict[str, LossCurve], dict[str, int], int],
) -> None:
    curves, sizes, keep = drawn
    allocation = Sensitivity().use_curves(curves)
    keeps = allocation.allocate(draw_scores(sizes), Budget(keep, sizes))
    assert sum(keeps.values()) == keep
    best = min(
        lose(curves, sizes, dict(zip(sizes, counts, strict=True)))
        for counts in itertools.product(*(range(size + 1) for size in sizes.values()))
        if sum(counts) == keep
    )
    assert lose(curves, sizes, keeps) == pytest.approx(best)


@fast
@given(
    changes=st.lists(st.floats(-2, 50), min_size=1, max_size=8),
    alive=st.integers(1, 1000),
)
def test_an_envelope_is_convex_and_below_what_was_measured(
    changes: list[float], alive: int
) -> None:
    kept = tuple(1.0 - (index + 1) / (len(changes) + 1) for index in range(len(changes)))
    points = find_envelope(LossCurve(kept, tuple(changes)), alive)
    assert (points[0][0], points[-1]) == (0.0, (alive, 0.0))
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(points)]
    assert all(before <= after + 1e-9 for before, after in itertools.pairwise(slopes))
    for fraction, change in zip(kept, changes, strict=True):
        place = fraction * alive
        (a, b) = next(
            pair for pair in itertools.pairwise(points) if pair[0][0] <= place <= pair[1][0]
        )
        height = a[1] + (b[1] - a[1]) * (place - a[0]) / (b[0] - a[0])
        assert height <= change + 1e-6 * max(1.0, abs(change))


def test_a_layer_that_overflows_is_kept_before_the_others() -> None:
    curves = {"a": LossCurve((0.5,), (math.inf,)), "b": LossCurve((0.5,), (3.0,))}
    sizes = {"a": 10, "b": 10}
    allocation = Sensitivity().use_curves(curves)
    assert allocation.allocate(draw_scores(sizes), Budget(12, sizes)) == {"a": 10, "b": 2}


def test_a_layer_without_a_curve_keeps_what_it_has_while_the_budget_allows() -> None:
    sizes = {"a": 10, "b": 10}
    allocation = Sensitivity().use_curves({"b": LossCurve((0.5,), (3.0,))})
    assert allocation.allocate(draw_scores(sizes), Budget(12, sizes)) == {"a": 10, "b": 2}
    assert allocation.allocate(draw_scores(sizes), Budget(7, sizes)) == {"a": 7, "b": 0}


def test_whole_filters_are_kept() -> None:
    scores = {"a": torch.rand(4, 1), "b": torch.rand(2, 1)}
    curves = {"a": LossCurve((0.5, 0.25), (1.0, 9.0)), "b": LossCurve((0.5,), (2.0,))}
    keeps = Sensitivity().use_curves(curves).allocate(scores, Budget(20, {"a": 12, "b": 12}))
    assert sum(keeps.values()) == 18
    assert keeps["a"] % 3 == keeps["b"] % 6 == 0


def test_unmeasured_it_is_the_ranking_of_the_scores() -> None:
    scores = draw_scores({"a": 20, "b": 30})
    budget = Budget(17, {"a": 20, "b": 30})
    assert Sensitivity().allocate(scores, budget) == Global().allocate(scores, budget)
