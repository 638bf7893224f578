"""Allocations against naive loops, with filters of unequal cost and layers pruned in part."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pruning.allocations import allocations
from pruning.allocations._shares import share_proportionally
from pruning.allocations.global_ import Global
from pruning.errors import BudgetError
from pruning.granularities.weight import Weight
from pruning.masks import build_full_masks, find_prunable
from pruning.sparsifiers.top_k import TopK
from pruning.types import Budget, Keeps, Scores, Selection
from tests.support import cases, oracles

fast = settings(max_examples=80, deadline=None, derandomize=True)

RESNET = {
    "conv1": (16, 3, 3, 3),
    "conv2": (16, 16, 3, 3),
    "conv3": (32, 16, 3, 3),
    "conv4": (64, 64, 3, 3),
    "fc": (10, 64),
}


def draw_scores(shapes: dict[str, tuple[int, ...]], seed: int = 0, filters: bool = False) -> Scores:
    rng = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand((shape[0], *[1] * (len(shape) - 1)) if filters else shape, generator=rng)
        for name, shape in shapes.items()
    }


def build_budget(shapes: dict[str, tuple[int, ...]], keep: int) -> Budget:
    return Budget(keep, {name: math.prod(shape) for name, shape in shapes.items()}, shapes)


def allocate(
    name: str, keep: int, shapes: dict[str, tuple[int, ...]] = RESNET, scores: Scores | None = None
) -> Keeps:
    return allocations.create(name).allocate(
        scores or draw_scores(shapes), build_budget(shapes, keep)
    )


def compute_densities(
    keeps: Keeps, shapes: dict[str, tuple[int, ...]] = RESNET
) -> dict[str, float]:
    return {name: keep / math.prod(shapes[name]) for name, keep in keeps.items()}


# ERK


def allocate_erk(shapes: dict[str, tuple[int, ...]], density: float) -> dict[str, float]:
    """Make one layer after another dense, until eps suits the others.

    The layer with the largest raw density comes first.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    raw = {name: sum(shape) / math.prod(shape) for name, shape in shapes.items()}
    dense: set[str] = set()
    while True:
        left = density * sum(sizes.values()) - sum(sizes[name] for name in dense)
        eps = left / sum(raw[name] * sizes[name] for name in shapes if name not in dense)
        highest = max((name for name in shapes if name not in dense), key=lambda name: raw[name])
        if eps * raw[highest] <= 1:
            return {name: 1.0 if name in dense else eps * raw[name] for name in shapes}
        dense.add(highest)


@pytest.mark.parametrize("density", [0.9, 0.6, 0.3, 0.1, 0.03, 0.005])
def test_erk_is_its_naive_loop(density: float) -> None:
    total = sum(math.prod(shape) for shape in RESNET.values())
    keep = round(density * total)
    keeps = allocate("erk", keep)
    assert sum(keeps.values()) == keep
    for name, expected in allocate_erk(RESNET, keep / total).items():
        size = math.prod(RESNET[name])
        assert abs(keeps[name] - expected * size) < 1
        if expected == 1.0:
            assert keeps[name] == size


@fast
@given(
    shapes=st.lists(
        st.one_of(st.tuples(*[st.integers(1, 12)] * 2), st.tuples(*[st.integers(1, 6)] * 4)),
        min_size=1,
        max_size=6,
    ),
    density=st.floats(0.02, 0.999),
)
def test_erk_is_its_naive_loop_on_any_network(
    shapes: list[tuple[int, ...]], density: float
) -> None:
    named = {f"layer{index}": shape for index, shape in enumerate(shapes)}
    total = sum(math.prod(shape) for shape in shapes)
    keep = min(total - 1, round(density * total))
    if keep < 1:
        return
    keeps = allocate("erk", keep, named)
    assert sum(keeps.values()) == keep
    for name, expected in allocate_erk(named, keep / total).items():
        assert abs(keeps[name] - expected * math.prod(named[name])) < 1 + 1e-6


def test_erk_takes_all_four_dimensions_of_a_kernel() -> None:
    shapes = {"a": (8, 8, 3, 3), "b": (8, 8)}  # 22/576 and 16/64
    keeps = allocate("erk", 38, shapes)
    assert keeps == {"a": 22, "b": 16}


def test_erk_gives_what_a_pruned_layer_cannot_take_to_the_others() -> None:
    shapes: dict[str, tuple[int, ...]] = {"a": (8, 8), "b": (8, 8), "c": (8, 8)}
    scores = draw_scores(shapes)
    scores["a"].flatten()[5:] = -math.inf
    assert allocate("erk", 65, shapes, scores) == {"a": 5, "b": 30, "c": 30}


def test_erk_of_filters_keeps_them_whole() -> None:
    keeps = allocations.create("erk").allocate(
        draw_scores(RESNET, filters=True), build_budget(RESNET, 20_000)
    )
    assert (
        20_000 - max(math.prod(shape[1:]) for shape in RESNET.values())
        < sum(keeps.values())
        <= 20_000
    )
    assert all(keep % math.prod(RESNET[name][1:]) == 0 for name, keep in keeps.items())


# Uniform+


def test_uniform_plus_keeps_the_stem_and_a_fifth_of_the_head() -> None:
    total = sum(math.prod(shape) for shape in RESNET.values())
    keep = round(0.1 * total)
    keeps = allocate("uniform_plus", keep)
    assert sum(keeps.values()) == keep
    assert keeps["conv1"] == 432
    assert keeps["fc"] == 128
    others = [
        density for name, density in compute_densities(keeps).items() if name not in ("conv1", "fc")
    ]
    expected = (keep - 432 - 128) / (total - 432 - 640)
    assert others == pytest.approx([expected] * 3, abs=1 / 2304)


def test_uniform_plus_treats_the_head_as_the_others_above_a_fifth() -> None:
    total = sum(math.prod(shape) for shape in RESNET.values())
    keeps = allocate("uniform_plus", round(0.5 * total))
    expected = (round(0.5 * total) - 432) / (total - 432)
    assert keeps["conv1"] == 432
    assert compute_densities(keeps)["fc"] == pytest.approx(expected, abs=1 / 640)


def test_uniform_plus_without_convolutions_keeps_no_layer_dense() -> None:
    assert allocate("uniform_plus", 50, {"a": (10, 10), "b": (10, 10)}) == {"a": 25, "b": 25}
    assert allocate("uniform_plus", 30, {"a": (10, 20), "b": (10, 10)}) == {"a": 10, "b": 20}
    assert allocate("uniform_plus", 10, {"a": (10, 20), "b": (7, 5)}) == {"a": 3, "b": 7}
    scores = {"a": torch.rand(200), "b": torch.rand(100)}
    assert allocations.create("uniform_plus").allocate(
        scores, Budget(30, {"a": 200, "b": 100})
    ) == {"a": 10, "b": 20}


def test_uniform_plus_takes_first_and_last_from_the_network_not_from_what_competes() -> None:
    shapes = {"stem": (4, 1, 3, 3), "a": (10, 10, 1, 1), "b": (10, 10), "head": (10, 10)}
    scores = {name: torch.rand(shapes[name]) for name in ("a", "b")}
    keeps = allocations.create("uniform_plus").allocate(
        scores, Budget(20, {"a": 100, "b": 100}, shapes)
    )
    assert keeps == {"a": 10, "b": 10}


def test_uniform_plus_scales_the_two_down_where_they_do_not_fit() -> None:
    total = sum(math.prod(shape) for shape in RESNET.values())
    before: Keeps | None = None
    for keep in (1, 2, 3, 4, 10, 100, 560, 562, 563, 564, 700, total // 10, total // 2, total):
        keeps = allocate("uniform_plus", keep)
        assert sum(keeps.values()) == keep
        assert (keeps["conv1"] == 432) == (keep >= 563)
        if before is not None:
            assert all(keeps[name] >= before[name] - 1 for name in keeps), (
                "a larger budget keeps more of every layer"
            )
        before = keeps
    assert {name: allocate("uniform_plus", 283)[name] for name in ("conv1", "fc")} == {
        "conv1": 216,
        "fc": 64,
    }


@pytest.mark.parametrize("name", ["uniform_plus", "erk", "uniform"])
def test_a_pruned_layer_gets_no_more_than_remains(name: str) -> None:
    scores = draw_scores(RESNET)
    for layer in ("conv1", "conv4"):
        scores[layer].flatten()[7:] = -math.inf
    keeps = allocate(name, 5000, scores=scores)
    assert sum(keeps.values()) == 5000
    assert keeps["conv1"] <= 7
    assert keeps["conv4"] == 7
    with pytest.raises(BudgetError, match="cannot keep 9000 weights: 7566 remain"):
        allocate(name, 9000, scores=scores)


# shares


@fast
@given(
    layers=st.lists(st.tuples(st.floats(0.01, 100), st.integers(0, 50)), min_size=1, max_size=6),
    part=st.floats(0, 1.2),
)
def test_proportional_shares_fill_up_to_one_water_line(
    layers: list[tuple[float, int]], part: float
) -> None:
    weights = {str(index): weight for index, (weight, _) in enumerate(layers)}
    limits = {str(index): limit for index, (_, limit) in enumerate(layers)}
    total = part * sum(limits.values())
    shares = share_proportionally(weights, limits, total)
    assert list(shares) == list(weights)
    assert sum(shares.values()) == pytest.approx(min(total, sum(limits.values())), abs=1e-9)
    assert all(share <= limits[name] for name, share in shares.items())
    lines = [share / weights[name] for name, share in shares.items() if share < limits[name]]
    full = [share / weights[name] for name, share in shares.items() if share == limits[name]]
    if lines:
        assert max(lines) == pytest.approx(min(lines), rel=1e-9, abs=1e-12)
        assert all(height <= max(lines) * (1 + 1e-9) for height in full)


# global


def allocate_greedily(scores: Scores, sizes: dict[str, int], keep: int) -> Keeps:
    """Allocate unit by unit in descending order, each taken where it still fits."""
    units = [
        (-value, place, name)
        for place, (name, value) in enumerate(
            (name, value) for name, score in scores.items() for value in score.flatten().tolist()
        )
        if value > -math.inf
    ]
    keeps = dict.fromkeys(scores, 0)
    for *_, name in sorted(units):
        cost = sizes[name] // scores[name].numel()
        if cost <= keep:
            keeps[name] += cost
            keep -= cost
    return keeps


@fast
@given(
    units=st.lists(
        st.tuples(st.integers(1, 8), st.sampled_from([1, 2, 3, 9, 16])), min_size=1, max_size=5
    ),
    seed=st.integers(0, 2**31),
    part=st.floats(0, 1),
)
def test_global_skips_what_does_not_fit_and_goes_on(
    units: list[tuple[int, int]], seed: int, part: float
) -> None:
    rng = torch.Generator().manual_seed(seed)
    scores: Scores = {}
    for index, (count, _) in enumerate(units):
        score = torch.randint(0, 5, (count, 1, 1, 1), generator=rng).double()
        scores[str(index)] = score.masked_fill(
            torch.rand(score.shape, generator=rng) < 0.2, -math.inf
        )
    sizes = {str(index): count * cost for index, (count, cost) in enumerate(units)}
    alive = sum(
        int((score > -math.inf).sum()) * sizes[name] // score.numel()
        for name, score in scores.items()
    )
    keep = int(part * alive)
    if alive:
        assert Global().allocate(scores, Budget(keep, sizes)) == allocate_greedily(
            scores, sizes, keep
        )


class Plain:
    """A global allocation that only counts."""

    def allocate(self, scores: Scores, budget: Budget) -> Keeps:
        return Global().allocate(scores, budget)


@pytest.mark.parametrize("filters", [False, True])
@pytest.mark.parametrize("density", [0.05, 0.3, 0.5])
def test_one_ranking_is_global_counts_spent_layer_by_layer(density: float, filters: bool) -> None:
    model, _ = cases.awkward("grouped")
    weights = find_prunable(model)
    masks = build_full_masks(weights)
    rng = torch.Generator().manual_seed(0)
    scores: Scores = {}
    for name, weight in weights.items():
        shape = (weight.shape[0], *[1] * (weight.dim() - 1)) if filters else weight.shape
        dead = torch.rand(shape, generator=rng) < 0.2
        masks[name] &= ~dead
        scores[name] = (
            torch.randint(0, 4, shape, generator=rng).double().masked_fill(dead, -math.inf)
        )

    def selection(allocation: Global | Plain) -> Selection:
        detached: dict[str, Tensor] = {name: weight.detach() for name, weight in weights.items()}
        return Selection(
            model=model,
            weights=detached,
            scores=scores,
            masks=masks,
            density=density,
            allocation=allocation,
            sparsifier=TopK(),
            generator=torch.Generator(),
            shape=lambda: (4, 2, 2),
        )

    ranked = Weight().select(selection(Global()))
    slow = Weight().select(selection(Plain()))
    assert all(torch.equal(ranked.masks[name], mask) for name, mask in slow.masks.items())


def test_global_ranks_weights_as_one_list() -> None:
    scores = {"a": torch.tensor([1.0, 3.0, 3.0]), "b": torch.tensor([[3.0], [2.0]])}
    for keep in range(1, 6):
        expected = oracles.global_counts(
            {name: score.flatten().tolist() for name, score in scores.items()}, keep
        )
        assert Global().allocate(scores, Budget(keep, {"a": 3, "b": 2})) == expected
    assert Global().select_masks(scores, Budget(3, {"a": 3, "b": 2}))["b"].tolist() == [
        [True],
        [False],
    ]
    with pytest.raises(BudgetError, match="nothing is left to keep"):
        Global().allocate({"a": torch.full((2,), -math.inf)}, Budget(1, {"a": 2}))
