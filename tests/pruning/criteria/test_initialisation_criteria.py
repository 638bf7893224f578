"""SynFlow, SNIP, GraSP and Taylor against enumerated paths and explicit derivatives."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.criteria import criteria
from pruning.criteria.grasp import GraSP
from pruning.criteria.snip import SNIP
from pruning.criteria.synflow import SynFlow
from pruning.criteria.taylor import Taylor
from pruning.errors import EvidenceError, ScoreError
from pruning.evidence.evidence import Batches, Evidence
from pruning.masks import apply_masks_, build_full_masks, count_kept, find_collapsed, find_prunable
from pruning.rounds.method import PruningMethod
from pruning.rounds.pruning import prune_
from pruning.schemas.recipe import Method
from pruning.types import Masks, Scores
from tests.support import cases, oracles


def build_chain(*widths: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Build linear layers without biases, ReLU between."""
    rng = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in itertools.pairwise(widths):
        layer = nn.Linear(fan_in, fan_out, bias=False, dtype=dtype)
        nn.init.normal_(layer.weight, generator=rng)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def build_double(case: str) -> tuple[nn.Module, Batches]:
    model, batches = cases.awkward(case)
    return model.double(), [(x.double(), y) for x, y in batches]


def mask_half(model: nn.Module) -> Masks:
    """Prune half of the weights, in the model too."""
    masks = cases.half_masks(model)
    apply_masks_(model, masks)
    return masks


def join_batches(batches: Batches) -> tuple[Tensor, Tensor]:
    inputs, labels = zip(*batches, strict=True)
    return torch.cat(inputs), torch.cat(labels)


# SynFlow


def sum_paths(weights: list[list[list[float]]]) -> list[list[list[float]]]:
    """Sum the product of |w| over all paths from inputs to outputs through each weight."""
    flows = [[[0.0] * len(row) for row in weight] for weight in weights]
    widths = [len(weights[0][0]), *(len(weight) for weight in weights)]
    for units in itertools.product(*(range(width) for width in widths)):
        product = math.prod(abs(weight[units[i + 1]][units[i]]) for i, weight in enumerate(weights))
        for i in range(len(weights)):
            flows[i][units[i + 1]][units[i]] += product
    return flows


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_synflow_is_the_sum_over_all_paths(dtype: torch.dtype, pruned: bool) -> None:
    model = build_chain(3, 4, 3, 2, dtype=dtype)
    masks = mask_half(model) if pruned else build_full_masks(find_prunable(model))
    expected = sum_paths([weight.tolist() for weight in find_prunable(model).values()])
    scores = SynFlow().score(Evidence(model, masks, shape=(1, 1, 3)))
    for (name, score), wanted in zip(scores.items(), expected, strict=True):
        assert score.dtype == torch.float64
        torch.testing.assert_close(
            score, torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=0
        )
        assert not score[~masks[name]].any()


@pytest.mark.parametrize("pruned", [False, True])
def test_synflow_is_conserved_from_layer_to_layer(pruned: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    norm = nn.BatchNorm2d(6)
    convs = [
        nn.Conv2d(2, 4, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2, groups=2, bias=False),
        norm,
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(6, 5, bias=False),
        nn.ReLU(),
        nn.Linear(5, 3, bias=False),
    ]
    for model in (build_chain(4, 7, 5, 3), nn.Sequential(*convs).double()):
        for parameter in find_prunable(model).values():
            nn.init.normal_(parameter, generator=rng)
        assert norm.running_var is not None
        norm.running_var.uniform_(0.5, 2, generator=rng)
        masks = mask_half(model) if pruned else build_full_masks(find_prunable(model))
        shape = (1, 1, 4) if model[0].__class__ is nn.Flatten else (2, 5, 5)
        sums = [
            float(score.sum())
            for score in SynFlow().score(Evidence(model, masks, shape=shape)).values()
        ]
        assert all(total == pytest.approx(sums[0], rel=1e-12) for total in sums)
        assert sums[0] > 0


def test_synflow_conserves_what_enters_and_leaves_a_unit() -> None:
    scores = list(SynFlow().score(Evidence(build_chain(4, 7, 5, 3), shape=(1, 2, 2))).values())
    for before, after in itertools.pairwise(scores):
        torch.testing.assert_close(before.sum(1), after.sum(0), rtol=1e-12, atol=0)


def test_synflow_takes_every_entry_of_the_state_by_its_absolute_value() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)
    ).train()
    rng = torch.Generator().manual_seed(0)
    for value in model.state_dict().values():
        if value.is_floating_point():
            nn.init.normal_(value, generator=rng)
    model.get_buffer("1.running_var").abs_().add_(0.5)
    positive = copy.deepcopy(model).double().eval()
    for value in positive.state_dict().values():
        value.abs_()
    positive(torch.ones(1, 1, 3, 3, dtype=torch.float64)).sum().backward()
    scores = SynFlow().score(Evidence(model, shape=(1, 3, 3)))
    for name, weight in find_prunable(positive).items():
        assert weight.grad is not None
        torch.testing.assert_close(
            scores[name], (weight * weight.grad).detach().abs(), rtol=1e-12, atol=0
        )
    assert int(model.get_buffer("1.num_batches_tracked")) == 0
    assert model[1].training


def test_synflow_looks_at_no_data() -> None:
    def batches() -> Batches:
        raise AssertionError("asked for data")

    model, _batches = cases.awkward("grouped")
    scores = SynFlow().score(Evidence(model, batches=batches, shape=(4, 2, 2)))
    for other in (_batches, [(torch.full_like(x, 1e9), y.flip(0)) for x, y in _batches]):
        again = SynFlow().score(Evidence(model, batches=other))
        assert all(torch.equal(again[name], score) for name, score in scores.items())
    with pytest.raises(EvidenceError):
        SynFlow().score(Evidence(model))


def test_synflow_scores_beyond_float32() -> None:
    model = build_chain(2, 2, 2, dtype=torch.float32)
    for weight in find_prunable(model).values():
        weight.data.fill_(-1e30)
    assert all(
        bool((score > 1e60).all())
        for score in SynFlow().score(Evidence(model, shape=(1, 1, 2))).values()
    )


def test_synflow_says_when_float64_is_not_enough() -> None:
    model = nn.Sequential(
        *(module for module in build_chain(2, 2, 2, 2) if not isinstance(module, nn.ReLU))
    )
    weights = list(find_prunable(model).values())
    for weight in weights:
        weight.data.fill_(1e150)
    with pytest.raises(ScoreError, match="R = inf is beyond float64"):
        SynFlow().score(Evidence(model, shape=(1, 1, 2)))
    weights[0].data.zero_()
    weights[1].data.fill_(1e200)
    weights[2].data.fill_(1e200)
    with pytest.raises(ScoreError, match=r"1\.weight: SynFlow scores are beyond float64"):
        SynFlow().score(Evidence(model, shape=(1, 1, 2)))


def test_synflow_uses_what_is_excluded_and_does_not_score_it() -> None:
    model = build_chain(3, 4, 2)
    all_scores = SynFlow().score(Evidence(model, shape=(1, 1, 3)))
    scores_without_last = SynFlow().score(Evidence(model, shape=(1, 1, 3), exclude=["3.weight"]))
    assert list(scores_without_last) == ["1.weight"]
    assert torch.equal(scores_without_last["1.weight"], all_scores["1.weight"])


def test_synflow_stages() -> None:
    densities = SynFlow().stage_densities(1.0, 0.01)
    assert densities == pytest.approx([0.01 ** (i / 100) for i in range(1, 101)], rel=1e-12)
    assert densities[-1] == 0.01
    assert SynFlow(rounds=2).stage_densities(0.4, 0.1) == pytest.approx([0.2, 0.1])
    assert SynFlow(rounds=3, stages="linear").stage_densities(0.4, 0.1) == pytest.approx(
        [0.3, 0.2, 0.1]
    )
    assert SynFlow(rounds=1).stage_densities(0.4, 0.1) == [0.1]


def prune(model: nn.Module, keep: int, shape: tuple[int, int, int], **params: Any) -> Masks:
    masks = build_full_masks(find_prunable(model))
    method = PruningMethod.of(cases.recipe(0.5), Method(name="synflow", params=params))
    return prune_(
        model,
        masks,
        keep / sum(mask.numel() for mask in masks.values()),
        method,
        lambda masks, stage: Evidence(model, masks, shape=shape),
        generator=torch.Generator(),
    )


@pytest.mark.parametrize("seed", range(3))
def test_synflow_reaches_the_largest_compression_without_collapse(seed: int) -> None:
    model = build_chain(8, 20, 20, 20, 20, 4, seed=seed)
    layers = len(find_prunable(model))
    assert find_collapsed(prune(copy.deepcopy(model), 4 * layers, (1, 1, 8), rounds=1))
    masks = prune(model, layers, (1, 1, 8))
    assert count_kept(masks) == dict.fromkeys(masks, 1)


def test_synflow_prunes_by_count_where_everything_ties() -> None:
    model, _ = cases.awkward("zero_weights")
    masks = prune(model, 9, (1, 2, 2))
    assert sum(count_kept(masks).values()) == 9


# SNIP


@pytest.mark.parametrize(
    "case", ["plain", "grouped", "depthwise", "strided", "tied", "frozen", "mixed_modes"]
)
def test_snip_is_the_derivative_by_a_factor_on_every_weight(case: str) -> None:
    model, batches = build_double(case)
    inputs, labels = join_batches(batches)
    weights = find_prunable(model)
    model.eval()

    def loss(*factors: Tensor) -> Tensor:
        state = {
            name: weight.detach() * factor
            for (name, weight), factor in zip(weights.items(), factors, strict=True)
        }
        return F.cross_entropy(torch.func.functional_call(model, state, (inputs,)), labels)

    ones = tuple(torch.ones_like(weight).detach() for weight in weights.values())
    slopes: tuple[Tensor, ...] = torch.autograd.functional.jacobian(loss, ones)
    total = sum(float(slope.abs().sum()) for slope in slopes)
    scores = SNIP().score(Evidence(model, batches=batches))
    for score, slope in zip(scores.values(), slopes, strict=True):
        torch.testing.assert_close(score, slope.abs() / total, rtol=1e-10, atol=1e-15)
    assert math.fsum(float(score.sum()) for score in scores.values()) == pytest.approx(1, rel=1e-12)


def test_snip_ranks_a_trained_network_whose_gradient_is_tiny() -> None:
    layer = nn.Linear(1, 2, bias=False)
    layer.weight.data.copy_(torch.tensor([[44.0], [-44.0]]))
    score = SNIP().score(Evidence(layer, batches=[(torch.ones(1, 1), torch.tensor([0]))]))["weight"]
    assert torch.isfinite(score).all()
    zero = SNIP().score(
        Evidence(nn.Linear(1, 2, bias=False), batches=[(torch.zeros(1, 1), torch.tensor([0]))])
    )["weight"]
    assert zero.tolist() == [[0], [0]]


# GraSP


def compute_flat_hessian(
    model: nn.Module, inputs: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Compute gradient and Hessian of the mean loss of logits / T.

    They are with respect to all prunable weights in one vector.
    """
    weights = find_prunable(model)
    sizes = [weight.numel() for weight in weights.values()]

    def loss(vector: Tensor) -> Tensor:
        parts = vector.split(sizes)
        state = {
            name: part.view_as(weight)
            for (name, weight), part in zip(weights.items(), parts, strict=True)
        }
        return F.cross_entropy(
            torch.func.functional_call(model, state, (inputs,)) / temperature, labels
        )

    point = torch.cat([weight.detach().flatten() for weight in weights.values()])
    return torch.autograd.functional.jacobian(loss, point), torch.autograd.functional.hessian(
        loss, point
    )


def build_smooth(case: str) -> tuple[nn.Module, Batches]:
    """Build a network of the table with tanh in place of ReLU."""
    model, batches = build_double(case)
    for name, module in model.named_children():
        if isinstance(module, nn.ReLU):
            setattr(model, name, nn.Tanh())
    return model.eval(), batches


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 200.0])
@pytest.mark.parametrize("case", ["plain", "grouped", "tied"])
def test_grasp_is_the_hessian_times_the_gradient(
    case: str, temperature: float, pruned: bool
) -> None:
    model, batches = build_smooth(case)
    masks = mask_half(model) if pruned else build_full_masks(find_prunable(model))
    gradient, hessian = compute_flat_hessian(model, *join_batches(batches), temperature)
    alive = torch.cat([mask.flatten() for mask in masks.values()])
    weight = torch.cat([weight.detach().flatten() for weight in find_prunable(model).values()])
    expected = weight * (hessian @ (gradient * alive))
    expected /= expected.abs().sum() + 1e-10
    for division in (
        batches,
        [join_batches(batches)],
        [(x[i : i + 1], y[i : i + 1]) for x, y in batches for i in range(len(y))],
    ):
        scores = GraSP(temperature=temperature).score(Evidence(model, masks, division))
        torch.testing.assert_close(
            torch.cat([score.flatten() for score in scores.values()]),
            expected,
            rtol=1e-8,
            atol=1e-12,
        )


def build_normalised() -> tuple[nn.Module, Tensor, Tensor]:
    """Build a smooth network with BatchNorm and dropout, and one batch."""
    rng = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 2, bias=False),
        nn.BatchNorm2d(3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(12, 3),
    ).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=rng)
    return model, torch.randn(7, 1, 3, 3, generator=rng, dtype=torch.float64), torch.arange(7) % 3


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_grasp_normalises_by_the_batch(statistics: Literal["batch", "running"]) -> None:
    model, inputs, labels = build_normalised()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scores = GraSP(temperature=2.0, batchnorm=statistics).score(
        Evidence(model, batches=[(inputs, labels)])
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    model.eval()
    model.get_submodule("1").train(statistics == "batch")
    gradient, hessian = compute_flat_hessian(model, inputs, labels, 2.0)
    expected = torch.cat(
        [weight.detach().flatten() for weight in find_prunable(model).values()]
    ) * (hessian @ gradient)
    expected /= expected.abs().sum() + 1e-10
    torch.testing.assert_close(
        torch.cat([score.flatten() for score in scores.values()]), expected, rtol=1e-8, atol=1e-12
    )


def test_grasp_of_single_images() -> None:
    """An image that would be a batch of its own joins the batch before; a single one has no
    statistics.
    """
    model, inputs, labels = build_normalised()
    joined = GraSP().score(
        Evidence(model, batches=[(inputs[:4], labels[:4]), (inputs[4:], labels[4:])])
    )
    parts = [(inputs[:4], labels[:4]), (inputs[4:6], labels[4:6]), (inputs[6:], labels[6:])]
    assert all(
        torch.equal(score, joined[name])
        for name, score in GraSP().score(Evidence(model, batches=parts)).items()
    )
    flat = nn.Sequential(nn.Flatten(), nn.Linear(9, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)).double()
    single = [(inputs[:1], labels[:1])]
    for name, score in GraSP().score(Evidence(flat, batches=single)).items():
        assert torch.equal(
            score, GraSP(batchnorm="running").score(Evidence(flat, batches=single))[name]
        )


def test_grasp_keeps_what_the_gradient_flow_comes_from() -> None:
    model, batches = build_smooth("plain")
    inputs, labels = join_batches(batches)
    scores = GraSP(temperature=1.0).score(Evidence(model, batches=batches))
    weight = model.get_parameter("1.weight")

    def flow() -> Tensor:
        gradient, _ = compute_flat_hessian(model, inputs, labels, 1.0)
        return gradient.square().sum()

    slope = oracles.finite_differences(flow, weight, 1e-5)  # 2 H g
    scale = (slope * weight.detach() / scores["1.weight"]).flatten()
    assert (scale > 0).all(), "a weight whose shrinking lowers the gradient norm must score high"
    torch.testing.assert_close(scale, scale.mean().expand_as(scale), rtol=1e-5, atol=0)


def test_grasp_scores_zero_where_the_loss_is_linear() -> None:
    model, batches = build_double("one_weight")
    scores = GraSP().score(
        Evidence(model, batches=batches, loss=lambda outputs, labels: outputs.sum())
    )
    assert all(torch.isfinite(score).all() for score in scores.values())
    layer = nn.Linear(2, 3, bias=False)
    scores = GraSP().score(
        Evidence(
            layer, batches=[(torch.ones(4, 2), torch.arange(4) % 3)], loss=lambda z, y: z.sum()
        )
    )
    assert not scores["weight"].any()


# Taylor


def test_taylor_averages_squares_over_mini_batches() -> None:
    model, batches = build_double("grouped")
    model.eval()
    weights = find_prunable(model)
    expected: Scores = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for inputs, labels in batches:
        gradients = torch.autograd.grad(
            F.cross_entropy(model(inputs), labels), list(weights.values())
        )
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            expected[name] += (gradient * weight).detach() ** 2 / len(batches)
    scores = Taylor().score(Evidence(model, batches=batches))
    for name in expected:
        torch.testing.assert_close(scores[name], expected[name], rtol=1e-10, atol=0)
    once = Taylor().score(Evidence(model, batches=[join_batches(batches)]))
    assert any(not torch.allclose(once[name], scores[name]) for name in scores), (
        "one batch is another estimate"
    )


def test_taylor_tells_tiny_gradients_apart() -> None:
    layer = nn.Linear(1, 2, bias=False)
    layer.weight.data.copy_(torch.tensor([[1e-20], [2e-20]]))
    scores = Taylor().score(
        Evidence(layer, batches=[(torch.full((1, 1), 1e-10), torch.tensor([0]))])
    )["weight"]
    assert 0 < float(scores[0]) < float(scores[1])


# what they ask for


def test_calibration() -> None:
    for name in ("snip", "grasp"):
        wanted = criteria.create(name).calibration(7)  # type: ignore[attr-defined]
        assert (wanted.images, wanted.balanced) == (70, True)
        assert criteria.create(name, {"images_per_class": 3}).calibration(5).images == 15  # type: ignore[attr-defined]
    assert (SNIP().units(10), GraSP().units(10), Taylor(images=5).units(10)) == (300, 900, 15)
    assert (Taylor().calibration(10).images, Taylor().calibration(10).balanced) == (1000, False)


@pytest.mark.parametrize("name", ["synflow", "snip", "grasp", "taylor"])
def test_pruned_weights_score_zero(name: str) -> None:
    model, batches = build_double("grouped")
    masks = mask_half(model)
    for key, score in criteria.create(name).score(Evidence(model, masks, batches)).items():
        assert not score[~masks[key]].any()
        assert score[masks[key]].any()
