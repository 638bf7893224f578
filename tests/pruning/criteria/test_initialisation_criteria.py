"""SNIP, GraSP and Taylor against explicit derivatives."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.criteria import criteria
from pruning.criteria.grasp import GraSP
from pruning.criteria.snip import SNIP
from pruning.criteria.taylor import Taylor
from pruning.evidence.evidence import Batches, Evidence
from pruning.masks import build_full_masks, find_prunable
from pruning.types import Scores
from tests.support import oracles
from tests.support.double_networks import build_double, join_batches, mask_half

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
