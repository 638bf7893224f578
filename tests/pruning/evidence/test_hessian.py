"""The diagonal of the Hessian against the whole matrix, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pruning.evidence.hessian
from pruning.criteria.obd import OBD
from pruning.criteria.qm import QM
from pruning.errors import EvidenceError, ScoreError
from pruning.evidence.evidence import Evidence
from pruning.masks import find_prunable
from tests.support.curvature_cases import assert_close, build_network
from tests.support.quadratic_cases import build_double, mask_half


def compute_hessian(evidence: Evidence) -> Tensor:
    """Compute the whole Hessian of the mean loss in all prunable weights, (N, N)."""
    weights = {name: weight.clone() for name, weight in evidence.weights.items()}
    images = torch.cat([x for x, _ in evidence.batches])
    labels = torch.cat([y for _, y in evidence.batches])
    modes = [module.training for module in evidence.model.modules()]
    evidence.model.eval()

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([weight.numel() for weight in weights.values()])
        by_name = {
            name: part.reshape(weight.shape)
            for (name, weight), part in zip(weights.items(), parts, strict=True)
        }
        outputs = torch.func.functional_call(evidence.model, by_name, (images,))
        return F.cross_entropy(outputs, labels)

    flat = torch.cat([weight.flatten() for weight in weights.values()])
    hessian: Tensor = torch.autograd.functional.hessian(loss, flat)
    for module, training in zip(evidence.model.modules(), modes, strict=True):
        module.training = training
    return hessian


def flatten(diagonal: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in diagonal.values()])


def build(name: str) -> Evidence:
    model, images, labels = build_network(name)
    return Evidence(model, batches=[(images[:3], labels[:3]), (images[3:], labels[3:])])


@pytest.mark.parametrize(
    "name", ["conv and linear", "grouped", "inplace", "tied", "twice", "tokens", "residual"]
)
def test_the_exact_diagonal_is_that_of_the_whole_hessian(name: str) -> None:
    evidence = build(name)
    before = [module.training for module in evidence.model.modules()]
    diagonal = evidence.curvature("hessian")
    assert list(diagonal) == list(find_prunable(evidence.model))
    assert_close(flatten(diagonal), compute_hessian(evidence).diagonal())
    assert [module.training for module in evidence.model.modules()] == before
    assert not any(value.requires_grad for value in diagonal.values())


def test_with_piecewise_linear_activations_it_is_the_gauss_newton_diagonal() -> None:
    evidence = build("inplace")
    assert_close(flatten(evidence.curvature("hessian")), flatten(evidence.curvature("ggn")))
    smooth = build("conv and linear")
    difference = flatten(smooth.curvature("hessian")) - flatten(smooth.curvature("ggn"))
    assert float(difference.abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["frozen", "plain", "tied"])
def test_masked_weights_and_frozen_ones(name: str) -> None:
    evidence = build_double(name, mask_half(name))
    exact = evidence.curvature("hessian")
    assert_close(flatten(exact), compute_hessian(evidence).diagonal())
    for key, value in evidence.curvature("hutchinson", 3).items():
        assert not value[~evidence.masks[key]].any()


@pytest.mark.slow
def test_hutchinson_is_unbiased_and_its_variance_is_that_of_the_other_entries() -> None:
    """Over 400 draws of vectors: means within 5 standard errors, and the variance of each entry,
    sum_{j != i} H_ij^2 over the samples, within a quarter on average.
    """
    evidence = build("conv and linear")
    hessian = compute_hessian(evidence)
    for samples in (1, 4):
        estimates = torch.stack(
            [
                flatten(
                    Evidence(
                        evidence.model,
                        batches=evidence.batches,
                        generator=torch.Generator().manual_seed(seed),
                    ).curvature("hutchinson", samples)
                )
                for seed in range(400 // samples)
            ]
        )
        variance = (hessian.square().sum(1) - hessian.diagonal().square()) / samples
        z = (estimates.mean(0) - hessian.diagonal()) / (variance / len(estimates)).sqrt()
        ratio = float(estimates.var(0).sum() / variance.sum())
        print(  # noqa: T201 (the figures are what the test is for)
            f"hutchinson, {samples} samples: |z| at most {float(z.abs().max()):.2f}, mean z^2 "
            f"{float(z.square().mean()):.2f}, variance over its formula {ratio:.3f}"
        )
        assert float(z.abs().max()) < 5
        assert 0.6 < float(z.square().mean()) < 1.6
        assert 0.75 < ratio < 1.25


def test_hutchinson_does_not_depend_on_the_batches() -> None:
    model, images, labels = build_network("conv and linear")
    whole, parts = (
        Evidence(model, batches=batches, generator=torch.Generator().manual_seed(4)).curvature(
            "hutchinson", 2
        )
        for batches in (
            [(images, labels)],
            [(images[:1], labels[:1]), (images[1:], labels[1:])],
        )
    )
    assert_close(flatten(whole), flatten(parts))


def test_criteria_score_by_the_hessian_and_negative_curvature_counts_by_its_size() -> None:
    evidence = build("conv and linear")
    diagonal = compute_hessian(evidence).diagonal()
    assert float(diagonal.min()) < 0
    theta = flatten(evidence.weights)
    obd = OBD(lambda_=0.0, curvature="hessian").score(evidence)
    assert_close(flatten(obd), (diagonal * theta.square() / 2).abs())
    qm = QM(lambda_=0.0, curvature="hessian").score(evidence)
    g = flatten(evidence.gradient)
    assert_close(flatten(qm), (diagonal * theta.square() / 2 - g * theta).abs())
    gone = {name: torch.zeros_like(mask) for name, mask in evidence.masks.items()}
    change = OBD(curvature="hessian").predict(evidence, gone)
    assert change == pytest.approx(float((diagonal * theta.square() / 2).sum()))


def test_other_losses_have_a_hessian_too() -> None:
    layer = nn.Linear(2, 1, bias=False).double()
    images = torch.tensor([[1.0, 2.0], [3.0, 0.0]], dtype=torch.float64)
    evidence = Evidence(
        layer,
        batches=[(images, torch.zeros(2))],
        loss=lambda outputs, labels: (outputs[:, 0] - labels).square().mean(),
    )
    assert evidence.curvature("hessian")["weight"].tolist() == [[10.0, 4.0]]
    linear = Evidence(
        layer, batches=[(images, torch.zeros(2))], loss=lambda outputs, labels: outputs.mean()
    )
    for kind in ("hessian", "hutchinson"):
        assert linear.curvature(kind)["weight"].tolist() == [[0.0, 0.0]]


def test_what_is_too_large_or_not_finite_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    evidence = build("conv and linear")
    monkeypatch.setattr(pruning.evidence.hessian, "WEIGHTS", 100)
    with pytest.raises(EvidenceError, match="246 are too many, 100 at most are taken; use hutch"):
        evidence.curvature("hessian")
    evidence.curvature("hutchinson")
    evidence.model.get_parameter("0.weight").data.fill_(torch.nan)
    with pytest.raises(ScoreError, match="outputs are not finite"):
        Evidence(evidence.model, batches=evidence.batches).curvature("hutchinson")
