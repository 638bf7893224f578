"""Draws, their reweighting, and the division of a budget by bounds.

They are compared with enumeration and a general optimiser.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Generator, Tensor, nn

from pruning.allocations import allocations
from pruning.bounds.draws import draw_multiplicities, expected_distinct, find_draws
from pruning.bounds.pfp import expect_channels
from pruning.bounds.sipp import coefficient, epsilon, spend_budget
from pruning.criteria.pfp import PFP
from pruning.criteria.sipp import SiPP
from pruning.errors import ParameterError
from pruning.evidence.evidence import Evidence
from pruning.evidence.sensitivities import compute_sensitivities
from pruning.granularities.weight import Weight
from pruning.library import load_model
from pruning.masks import build_full_masks, density, find_prunable
from pruning.rounds.method import PruningMethod
from pruning.rounds.pruning import prune_
from pruning.sparsifiers import sparsifiers
from pruning.sparsifiers._signed_rows import SignedRows
from pruning.sparsifiers.sample import Sample
from pruning.types import Budget, DrawLaw, Selection
from tests.support import cases
from tests.support.bound_cases import remembered

__all__ = ["remembered"]


def make_generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


# draws


def test_expected_distinct_by_enumeration() -> None:
    p = [0.5, 0.3, 0.2]
    for draws in range(5):
        expected = sum(
            math.prod(p[j] for j in outcome) * len(set(outcome))
            for outcome in itertools.product(range(3), repeat=draws)
        )
        assert float(
            expected_distinct(torch.tensor(p, dtype=torch.float64), draws)
        ) == pytest.approx(expected, abs=1e-12)
    assert expected_distinct(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 5.0])).tolist() == [0, 1]


def test_draws_are_the_most() -> None:
    p = torch.rand(20, 7, generator=make_generator(), dtype=torch.float64)
    p = p / p.sum(1, keepdim=True)
    distinct = torch.arange(20) % 7 + 1
    counts = find_draws(p, distinct)
    below_all = distinct < 7
    assert bool((expected_distinct(p, counts.double()) <= distinct + 1e-6).all())
    assert bool((expected_distinct(p, counts.double() + 1) > distinct)[below_all].all())
    assert bool((expected_distinct(p, counts.double()) > distinct - 1)[below_all].all())
    thirds = torch.full((1, 3), 1 / 3)
    assert find_draws(thirds, torch.tensor([1])).tolist() == [1], (
        "one draw gives one, however its probabilities are rounded"
    )


def test_multiplicities_are_multinomial() -> None:
    p = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.0, 0.8]])
    multiplicities = torch.stack(
        [
            draw_multiplicities(p, torch.tensor([10, 4]), make_generator(seed))
            for seed in range(3000)
        ]
    )
    assert multiplicities.sum(2).unique(dim=0).tolist() == [[10, 4]]
    for row, draws in ((0, 10), (1, 4)):
        mean = multiplicities[:, row].mean(0)
        variance = multiplicities[:, row].var(0)
        wanted = draws * p[row].double()
        assert bool(((mean - wanted).abs() <= 5 * (wanted / 3000).sqrt()).all())
        torch.testing.assert_close(variance, wanted * (1 - p[row].double()), rtol=0.15, atol=1e-12)
    assert torch.equal(
        draw_multiplicities(p, torch.tensor([10, 4]), make_generator(1)), multiplicities[1]
    )


# the budget that SiPP's bound divides


@pytest.mark.parametrize("budget", [3.0, 10.0, 50.0, 100.0, 130.0, 200.0])
def test_the_budget_is_spent_at_the_minimum(budget: float) -> None:
    c = torch.rand(6, generator=make_generator(), dtype=torch.float64) * 100
    c[2] = 0
    weights = torch.tensor([0.5, 0.5, 0.25, 0.25, 0.25, 0.25])
    limits = torch.tensor([40.0, 10, 20, 30, 5, 50])
    kept = spend_budget(c, weights, limits, budget)
    open_ = [0, 1, 3, 4, 5]
    assert float(kept.sum()) == pytest.approx(min(budget, 135.0), abs=1e-6)
    assert kept[2] == 0
    assert bool((kept <= limits + 1e-12).all())

    def bound(kept: np.ndarray) -> float:
        return float((weights[open_] * epsilon(c[open_], torch.tensor(kept))).sum())

    def overspend(kept: np.ndarray) -> float:
        return float(kept.sum()) - budget

    if budget < 135:
        start = np.full(5, budget / 5).clip(max=limits[open_].numpy())
        best = minimize(
            bound,
            start,
            bounds=[(1e-6, float(limits[i])) for i in open_],
            options={"maxiter": 500, "ftol": 1e-13},
            constraints={"type": "eq", "fun": overspend},
        )
        assert bound(kept[open_].numpy()) <= best.fun * (1 + 1e-6)


def test_layers_weigh_by_the_mean_over_their_sides() -> None:
    """Two equal layers, one of two filters and one of four: a side of the larger one counts half as
    much.
    """
    scores = {"a": torch.ones(2, 10), "b": torch.ones(4, 10)}
    signs = {name: torch.ones_like(score) for name, score in scores.items()}
    keeps = allocations.create("bound_optimal").allocate(
        scores, Budget(18, {"a": 20, "b": 40}, {}, signs)
    )
    sides = torch.full((6,), 10.0, dtype=torch.float64)
    kept = spend_budget(sides, torch.tensor([0.5, 0.5, 0.25, 0.25, 0.25, 0.25]), sides, 18)
    assert keeps == {"a": round(float(kept[:2].sum())), "b": round(float(kept[2:].sum()))}
    assert keeps["a"] > 18 / 3


def test_channels_have_one_error_together() -> None:
    scores = {
        "a": torch.rand(12, generator=make_generator()) * 50,
        "b": torch.rand(8, generator=make_generator(1)),
        "c": torch.rand(5) * 0,
    }
    errors = np.geomspace(1e-3, 1e4, 4000)

    def count_expected(error: float) -> float:
        return float(sum(expect_channels(score, error) for score in scores.values()))

    for keep in (1, 9, 14, 25):
        keeps = allocations.create("bound_optimal").allocate(
            scores, Budget(keep, {"a": 12, "b": 8, "c": 5})
        )
        assert sum(keeps.values()) == keep
        if keep <= 14:
            # the larger the error, the fewer channels
            fitting = bisect.bisect_left(
                errors, -float(keep), key=lambda error: -count_expected(error)
            )
            assert all(
                abs(keeps[name] - expect_channels(score, errors[fitting])) <= 1
                for name, score in scores.items()
            )


def test_scores_below_zero_are_refused() -> None:
    with pytest.raises(
        ParameterError, match="bound_optimal divides by sensitivities, and a has scores below 0"
    ):
        allocations.create("bound_optimal").allocate(
            {"a": torch.tensor([-1.0, 1.0])}, Budget(1, {"a": 2})
        )
    with pytest.raises(ParameterError, match="none below 0"):
        Sample().sparsify(torch.ones(1, 2), torch.tensor([[-1.0, 1.0]]), 1, make_generator())


# the sampler


def count_outcomes(p: list[float], draws: int) -> dict[tuple[int, ...], float]:
    """How often each index is drawn, in every possible way, with the chance of that."""
    chances: dict[tuple[int, ...], float] = {}
    drawable = [j for j, chance in enumerate(p) if chance]
    for outcome in itertools.product(drawable, repeat=draws):
        times = tuple(outcome.count(j) for j in range(len(p)))
        chances[times] = chances.get(times, 0.0) + math.prod(p[j] for j in outcome)
    return chances


def test_draws_are_right_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    """All outcomes of the draws, each with its probability: the weights result exactly."""
    weight = torch.tensor([[3.0, -2.0, 0.5, 1.0, -4.0, 0.0]], dtype=torch.float64)
    score = torch.tensor([[0.6, 0.5, 0.1, 0.8, 0.4, 0.0]], dtype=torch.float64)
    p = {1: [0.4, 0, 1 / 15, 8 / 15, 0, 0], -1: [0, 5 / 9, 0, 0, 4 / 9, 0]}
    mean = torch.zeros_like(weight)
    total = 0.0
    draws = [
        int(n)
        for n in find_draws(
            torch.tensor([p[1], p[-1]]), SignedRows.from_weight(weight, score).divide_budget(3)
        )
    ]
    assert min(draws) > 0
    for up, up_chance in count_outcomes(p[1], draws[0]).items():
        for down, down_chance in count_outcomes(p[-1], draws[1]).items():
            times = torch.tensor([up, down], dtype=torch.float64)
            chance = up_chance * down_chance
            monkeypatch.setattr(
                "pruning.sparsifiers._signed_rows.draw_multiplicities",
                lambda p, draws, generator, times=times: times,
            )
            mean += chance * Sample().sparsify(weight, score, 3, make_generator()).weight
            total += chance
    assert total == pytest.approx(1)
    torch.testing.assert_close(mean, weight, rtol=1e-12, atol=1e-12)


def test_as_many_remain_as_are_expected() -> None:
    weight = torch.randn(5, 30, generator=make_generator(), dtype=torch.float64)
    score = torch.rand(5, 30, generator=make_generator(1), dtype=torch.float64)
    draws = [Sample().sparsify(weight, score, 60, make_generator(seed)) for seed in range(80)]
    counts = torch.tensor([float(sparse.mask.sum()) for sparse in draws])
    assert 60 - 10 <= float(counts.mean()) <= 60 + 2, (
        "no side expects more than its share, or less by one"
    )
    mean = torch.stack([sparse.weight for sparse in draws]).mean(0)
    spread = torch.stack([sparse.weight for sparse in draws]).std(0) / math.sqrt(80)
    assert float(((mean - weight).abs() <= 4.5 * spread + 1e-9).double().mean()) > 0.99
    for sparse in draws[:5]:
        assert bool((sparse.weight[sparse.mask].sign() == weight[sparse.mask].sign()).all())


def test_a_side_that_keeps_all_stays_as_it_is() -> None:
    weight = torch.randn(3, 8, generator=make_generator())
    score = torch.rand(3, 8, generator=make_generator(1))
    sparse = Sample().sparsify(weight, score, 24, make_generator())
    assert torch.equal(sparse.weight, weight)
    assert not Sample().sparsify(weight, score, 0, make_generator()).mask.any()
    dead = score.masked_fill(score < 0.5, -math.inf)
    assert not (
        Sample().sparsify(weight, dead, 12, make_generator()).mask & (dead == -math.inf)
    ).any()


def test_the_law_tells_how_the_weights_were_drawn() -> None:
    weight = torch.tensor([[3.0, -2.0, 0.5, 1.0, -4.0, 0.0], [1.0, 2.0, 3.0, 4.0, 5.0, -1.0]])
    score = torch.tensor([[0.6, 0.5, 0.1, 0.8, 0.4, 0.0], [1.0, -math.inf, 1.0, 1.0, 1.0, 1.0]])
    law = Sample().sparsify(weight, score, 4, make_generator()).law
    assert law is not None
    assert (law.probabilities.dtype, law.draws.dtype) == (torch.float64, torch.int64)
    assert law.probabilities.shape == (4, 6)
    torch.testing.assert_close(
        law.probabilities[0], torch.tensor([0.4, 0, 1 / 15, 8 / 15, 0, 0], dtype=torch.float64)
    )
    assert law.probabilities[1].tolist() == [0.25, 0, 0.25, 0.25, 0.25, 0]
    kept = (
        SignedRows.from_weight(weight, score).divide_budget(4)
        >= SignedRows.from_weight(weight, score).drawable
    )
    assert (law.draws == -1).tolist() == kept.tolist()
    whole = Sample().sparsify(weight, score, 12, make_generator()).law
    assert whole is not None
    assert whole.draws.tolist() == [-1, -1, -1, -1]


def test_laws_are_handed_on_by_name() -> None:
    model = cases.mlp()
    weights = {name: weight.detach() for name, weight in find_prunable(model).items()}

    def laws(sparsifier: str) -> Mapping[str, DrawLaw]:
        scores = {name: weight.abs() for name, weight in weights.items()}
        chosen = Selection(
            model=model,
            weights=weights,
            scores=scores,
            masks=build_full_masks(weights),
            density=0.5,
            allocation=allocations.create("uniform"),
            sparsifier=sparsifiers.create(sparsifier),
            generator=make_generator(),
            shape=lambda: (1, 4, 4),
        )
        return Weight().select(chosen).laws

    assert {name: law.draws.shape for name, law in laws("sample").items()} == {
        "1.weight": (12,),
        "3.weight": (6,),
    }
    assert laws("top_k") == {}


# the criteria


def test_randomized_sipp_prunes_by_its_bound() -> None:
    model = load_model("mlp", hidden=[40, 20], channels=1, height=4, width=4, classes=3).double()
    recipe = cases.recipe(0.7, criterion={"name": "sipp", "params": {"variant": "randomized"}})
    method = PruningMethod.of(recipe, recipe.criteria[0])
    assert (type(method.allocation).__name__, type(method.sparsifier).__name__) == (
        "BoundOptimal",
        "Sample",
    )
    before = {name: weight.clone() for name, weight in find_prunable(model).items()}
    batches = [
        (torch.rand(30, 1, 4, 4, generator=make_generator(), dtype=torch.float64), torch.zeros(30))
    ]
    masks = prune_(
        model,
        build_full_masks(before),
        0.3,
        method,
        lambda masks, stage: Evidence(model, masks, batches),
        generator=make_generator(),
    )
    assert density(masks) == pytest.approx(0.3, abs=0.05)
    grown = [
        bool((model.get_parameter(name)[mask].abs() > before[name][mask].abs()).any())
        for name, mask in masks.items()
    ]
    assert any(grown), "what is drawn stands for what is not"
    assert all(not model.get_parameter(name)[~mask].any() for name, mask in masks.items())


def test_scores_carry_their_layers_constant() -> None:
    model = cases.conv_net().double()
    images = torch.randn(5, 1, 4, 4, generator=make_generator(), dtype=torch.float64)
    evidence = Evidence(model, batches=[(images, torch.zeros(5))])
    names = list(evidence.weights)
    worst = compute_sensitivities(model, names, evidence.batches, "max")
    alpha = {"0.weight": coefficient(16, 9, 1e-3, 2.0), "4.weight": coefficient(1, 1, 1e-3, 2.0)}
    edges = SiPP("randomized", delta=1e-3, c=2.0).score(evidence)
    channel = PFP(delta=1e-3, c=2.0).score(evidence)
    for name in names:
        torch.testing.assert_close(edges[name], alpha[name] * worst[name])
        flat = worst[name].flatten(2).amax(2) if worst[name].dim() > 2 else worst[name]
        torch.testing.assert_close(channel[name].flatten(), alpha[name] * flat.amax(0))
    assert channel["0.weight"].shape == (1, 1, 1, 1)


def test_pfp_removes_channels_of_layers_that_can_spare_them() -> None:
    model = load_model("mlp", hidden=[20, 20], channels=1, height=4, width=4, classes=3).double()
    with torch.no_grad():  # the third layer listens to two of the second's units
        model.get_parameter("fc3.weight")[:, 2:] *= 1e-6
    recipe = cases.recipe(0.5, criterion={"name": "pfp"})
    method = PruningMethod.of(recipe, recipe.criteria[0])
    batches = [
        (torch.rand(30, 1, 4, 4, generator=make_generator(), dtype=torch.float64), torch.zeros(30))
    ]
    masks = prune_(
        model,
        build_full_masks(find_prunable(model)),
        0.5,
        method,
        lambda masks, stage: Evidence(model, masks, batches),
        generator=make_generator(),
    )
    kept = masks["fc3.weight"].any(0)
    assert int(kept.sum()) < int(masks["fc2.weight"].any(0).sum())
    assert isinstance(model, nn.Module)


def test_equal_errors_of_the_released_code() -> None:
    c = coefficient(positions=1, kernel=1) * torch.tensor([1.75, 1.75], dtype=torch.float64)
    errors: Tensor = epsilon(c, torch.tensor([100, 10_000]))
    assert [round(float(error), 4) for error in errors] == [2.2933, 0.1513]
