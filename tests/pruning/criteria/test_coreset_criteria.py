"""The scores by which coresets of weights draw, against explicit sums."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.allocations import allocations
from pruning.bounds.corenet import Constants
from pruning.criteria.corenet import CoreNet
from pruning.criteria.sipp import SiPP
from pruning.errors import EvidenceError, ParameterError
from pruning.evidence.amplification import measure_amplifications
from pruning.evidence.evidence import Evidence
from pruning.evidence.sensitivities import compute_sensitivities
from pruning.library import load_model
from pruning.masks import build_full_masks, density, find_prunable
from pruning.rounds.method import PruningMethod
from pruning.rounds.pruning import prune_
from pruning.sparsifiers.sample import Sample
from pruning.types import Budget
from tests.support import cases
from tests.support.seeds import make_generator


def build_mlp(*, depth: int = 1, width: int = 6) -> nn.Module:
    return load_model(
        "mlp", hidden=[width] * depth, channels=1, height=2, width=2, classes=3
    ).double()


def draw_batches(n: int = 9) -> list[tuple[Tensor, Tensor]]:
    return [
        (
            torch.rand(n, 1, 2, 2, generator=make_generator(), dtype=torch.float64),
            torch.arange(n) % 3,
        )
    ]


def test_scores_are_sensitivities_times_the_growth_of_errors_behind() -> None:
    net = build_mlp(depth=2)
    batches = draw_batches()
    evidence = Evidence(net, batches=batches)
    names = list(evidence.weights)
    constants = Constants.from_widths([4, 6, 6, 3], 0.1)
    edges = compute_sensitivities(net, names, batches, "max")
    score = CoreNet(depth=True).score(evidence)
    grown = []
    for name in names:
        layer = net.get_submodule(name[:-7])
        assert isinstance(layer, nn.Linear)
        total = torch.zeros(99).double()
        count = torch.zeros(99)
        x = batches[0][0].flatten(1)
        for other in names[: names.index(name)]:
            x = F.relu(net.get_submodule(other[:-7])(x))
        for row in x:
            for i in range(len(layer.weight)):
                terms = [*(layer.weight[i] * row).tolist(), float(layer.bias[i].detach())]
                total[i] += sum(map(abs, terms)) / abs(sum(terms))
                count[i] += 1
        grown.append(float((total / count.clamp_min(1)).max()) + constants.kappa)
    for place, name in enumerate(names):
        torch.testing.assert_close(score[name], edges[name] * math.prod(grown[place:-1]) ** 2)
    alike = CoreNet(depth=False).score(evidence)
    assert all(torch.equal(alike[name], edges[name]) for name in names)


def test_points_without_a_limit_do_not_count() -> None:
    layer = nn.Linear(2, 2, bias=False).double()
    layer.weight.data.copy_(torch.tensor([[1.0, -1.0], [2.0, 1.0]]))
    batches = [(torch.tensor([[1.0, 1.0], [3.0, 1.0]], dtype=torch.float64), torch.zeros(2))]
    amplification = measure_amplifications(layer, ["weight"], batches)["weight"]
    assert amplification.mean == pytest.approx(2.0)
    assert amplification.dropped == 1
    negative = [(torch.tensor([[-1.0, 1.0]], dtype=torch.float64), torch.zeros(1))]
    assert measure_amplifications(layer, ["weight"], negative)["weight"].mean == pytest.approx(3.0)


def test_deep_networks_have_finite_scores() -> None:
    net = nn.Sequential(nn.Flatten(), *(nn.Linear(4, 4) for _ in range(90)))
    scores = CoreNet(depth=True).score(
        Evidence(
            net, batches=[(torch.rand(5, 1, 2, 2, generator=make_generator()), torch.zeros(5))]
        )
    )
    assert all(bool(torch.isfinite(score).all()) for score in scores.values())
    assert float(scores["1.weight"].sum()) > float(scores["90.weight"].sum())


def test_plus_spends_nothing_on_neurons_that_no_image_needs() -> None:
    net = build_mlp(depth=2)
    with torch.no_grad():
        net.get_parameter("fc3.weight")[:, 2] = (
            0  # so the second layer's third neuron is not needed
        )
        net.get_parameter("fc2.weight")[[0, 1, 3, 4, 5], 1] = (
            0  # so, with it, neither is the first layer's second
        )
        net.get_parameter("fc1.bias").fill_(0.5)
    evidence = Evidence(net, batches=draw_batches())
    plain = CoreNet(depth=False).score(evidence)
    plus = CoreNet("plus", depth=False).score(evidence)
    assert bool(plain["fc2.weight"][2].any())
    assert not plus["fc2.weight"][2].any()
    assert not plus["fc1.weight"][1].any()
    others = [0, 3, 4, 5]
    live = (plain["fc2.weight"][[0, 1, 3, 4, 5]] > 0).any(0)[others]
    assert torch.equal(plus["fc1.weight"][others][live], plain["fc1.weight"][others][live])
    assert torch.equal(plus["fc3.weight"], plain["fc3.weight"])


@pytest.mark.parametrize("variant", ["corenet", "plus", "plus_plus"])
def test_prunes_in_proportion(variant: str) -> None:
    net = build_mlp(width=30)
    recipe = cases.recipe(0.5, criterion={"name": "corenet", "params": {"variant": variant}})
    method = PruningMethod.of(recipe, recipe.criteria[0])
    assert (type(method.allocation).__name__, getattr(method.sparsifier, "division", "")) == (
        "Proportional",
        "proportional",
    )
    batches = [*draw_batches(30), *draw_batches(30)]
    masks = prune_(
        net,
        build_full_masks(find_prunable(net)),
        0.5,
        method,
        lambda masks, stage: Evidence(net, masks, batches),
        generator=make_generator(),
    )
    assert density(masks) == pytest.approx(0.5, abs=0.15)
    assert all(bool(mask.any()) for mask in masks.values())
    with pytest.raises(EvidenceError):
        prune_(
            net,
            masks,
            0.3,
            method,
            lambda masks, stage: Evidence(net, masks),
            generator=make_generator(),
        )


def test_the_images_that_judge_draws_are_not_scored() -> None:
    net = build_mlp()
    batch, labels = draw_batches(9)[0]
    batch[-3:] = 0.0
    batch[-1, 0, 0, 0] = 1.0  # alone, it would have all of every sum
    evidence = Evidence(net, batches=[(batch, labels)])
    plus = CoreNet("plus", depth=False).score(evidence)["fc1.weight"]
    amplified = CoreNet("plus_plus", depth=False).score(evidence)["fc1.weight"]
    assert not torch.equal(plus, amplified)


def test_shares_are_proportional_with_one_for_each_side() -> None:
    scores = {"a": torch.full((2, 10), 10.0), "b": torch.full((2, 10), 1.0)}
    signs = {name: torch.ones(2, 10) for name in scores}
    signs["b"][:, 5:] = -1
    keeps = allocations.create("proportional").allocate(
        scores, Budget(17, {"a": 20, "b": 20}, {}, signs)
    )
    assert keeps == {
        "a": 12,
        "b": 5,
    }  # 2 and 4 for the sides, and 10 / 11 and 1 / 11 of the other 11
    assert allocations.create("proportional").allocate(
        scores, Budget(3, {"a": 20, "b": 20}, {}, signs)
    ) == {"a": 1, "b": 2}
    with pytest.raises(
        ParameterError, match="proportional divides by sensitivities, and a has scores below 0"
    ):
        allocations.create("proportional").allocate(
            {"a": torch.tensor([-1.0])}, Budget(1, {"a": 1})
        )
    score = torch.tensor([[1.0, 0, 0], [1.0, 1, 1]])
    unseen = Sample(division="proportional").sparsify(torch.ones(2, 3), score, 6, make_generator())
    assert unseen.mask.tolist() == [[True, False, False], [True, True, True]]


def test_hybrid_sipp_hands_its_constants_on() -> None:
    recipe = cases.recipe(
        0.5, criterion={"name": "sipp", "params": {"variant": "hybrid", "c": 2.0, "delta": 1e-3}}
    )
    method = PruningMethod.of(recipe, recipe.criteria[0])
    assert (getattr(method.sparsifier, "c", 0), getattr(method.sparsifier, "delta", 0)) == (
        2.0,
        1e-3,
    )
    net = build_mlp(width=40)
    masks = prune_(
        net,
        build_full_masks(find_prunable(net)),
        0.5,
        method,
        lambda masks, stage: Evidence(net, masks, draw_batches()),
        generator=make_generator(),
    )
    assert density(masks) == pytest.approx(0.5, abs=0.1)
    assert SiPP("hybrid").allocation == "bound_optimal"
