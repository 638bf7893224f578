"""The diagonal of the curvature against explicit Jacobians in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pruning.errors import EvidenceError, ScoreError
from pruning.evidence.curvature import (
    Curvature,
    choose_curvature,
    compute_diagonal,
    compute_fisher_vectors,
    compute_ggn_vectors,
)
from pruning.evidence.evidence import Evidence
from pruning.masks import find_prunable
from tests.support.curvature_cases import (
    IMAGES,
    NETWORKS,
    assert_close,
    build_network,
    compute_exact,
)


@pytest.mark.parametrize("name", NETWORKS)
def test_ggn_is_the_diagonal_of_the_gauss_newton_matrix(name: str) -> None:
    model, images, labels = build_network(name)
    diagonal = Evidence(
        model, batches=[(images[:3], labels[:3]), (images[3:], labels[3:])]
    ).curvature("ggn")
    assert list(diagonal) == list(find_prunable(model))
    for key in diagonal:
        assert_close(diagonal[key], compute_exact(model, images, key))
    assert any(float(value.max()) > 1e-4 for value in diagonal.values())


@pytest.mark.parametrize("name", NETWORKS)
def test_empirical_fisher_is_the_mean_square_of_single_gradients(name: str) -> None:
    model, images, labels = build_network(name)
    diagonal = Evidence(
        model, batches=[(images[:3], labels[:3]), (images[3:], labels[3:])]
    ).curvature("empirical_fisher")
    model.eval()
    for key in diagonal:
        total = torch.zeros_like(diagonal[key])
        for index in range(IMAGES):
            loss = F.cross_entropy(model(images[index : index + 1]), labels[index : index + 1])
            (gradient,) = torch.autograd.grad(loss, model.get_parameter(key), allow_unused=True)
            total += 0 if gradient is None else gradient.square() / IMAGES
        assert_close(diagonal[key], total)


@pytest.mark.parametrize("name", ["conv and linear", "twice", "tied"])
def test_sampled_fisher_is_unbiased(name: str) -> None:
    model, images, labels = build_network(name)
    names = list(find_prunable(model))
    seeds = (torch.Generator().manual_seed(seed) for seed in range(200))
    draws = [
        torch.cat(
            [
                value.flatten()
                for value in compute_diagonal(
                    model, names, batches=[(images, labels)], kind="mc_fisher", generator=seed
                ).values()
            ]
        )
        for seed in seeds
    ]
    truth = torch.cat([compute_exact(model, images, key).flatten() for key in names])
    estimates = torch.stack(draws)
    errors = (estimates.mean(0) - truth) / (estimates.std(0) / len(draws) ** 0.5 + 1e-15)
    assert float(errors.square().mean()) < 2.0  # about 1 where unbiased; the entries are correlated
    assert float((estimates.mean(0) - truth).abs().sum() / truth.sum()) < 0.1
    assert float(estimates.std(0).sum()) > 0


@pytest.mark.parametrize("samples", [1, 16])
def test_more_samples_of_the_fisher_have_less_noise(samples: int) -> None:
    """The oracle is the exact diagonal: the variance falls as one over the samples."""
    model, images, labels = build_network("conv and linear")
    names = list(find_prunable(model))

    def estimate(seed: int, samples: int) -> torch.Tensor:
        diagonal = compute_diagonal(
            model,
            names,
            batches=[(images[:3], labels[:3]), (images[3:], labels[3:])],
            kind="mc_fisher",
            generator=torch.Generator().manual_seed(seed),
            samples=samples,
        )
        return torch.cat([value.flatten() for value in diagonal.values()])

    truth = torch.cat([compute_exact(model, images, key).flatten() for key in names])
    single = torch.stack([estimate(seed, 1) for seed in range(60)])
    many = torch.stack([estimate(seed, samples) for seed in range(60)])
    assert float((many.mean(0) - truth).abs().sum() / truth.sum()) < 0.3 / samples**0.5
    ratio = float(single.var(0).sum() / many.var(0).sum())
    assert samples / 1.8 < ratio < samples * 1.8


def test_labels_are_drawn_as_the_softmax_says() -> None:
    logits = (
        torch.tensor([[0.0, -torch.inf, 1.0, 2.0]], dtype=torch.float64)
        .clamp_min(-1e4)
        .repeat(40_000, 1)
    )
    p = logits[0].softmax(0)
    vectors = compute_fisher_vectors(
        torch.rand(1, 40_000, dtype=torch.float64, generator=torch.Generator().manual_seed(3)),
        logits,
    )[0]
    shares = ((p - vectors) > 0.5).double().mean(0)
    assert float(shares[1]) == 0.0
    assert torch.allclose(shares, p, atol=4 * 0.5 / 40_000**0.5)
    first_and_last = torch.tensor([[-1e4, 0.0, 1.0, 2.0, -1e4]] * 2, dtype=torch.float64)
    edges = compute_fisher_vectors(
        torch.tensor([[0.0, 1 - 2**-53]], dtype=torch.float64), first_and_last
    )[0]
    assert (first_and_last.softmax(1) - edges).argmax(1).tolist() == [1, 3], (
        "a class of probability zero was drawn"
    )


def test_sampled_fisher_does_not_depend_on_the_batches_nor_on_the_pieces() -> None:
    model, images, labels = build_network("conv and linear")
    names = list(find_prunable(model))
    cut = [[(images, labels)], [(images[:1], labels[:1]), (images[1:], labels[1:])]]
    diagonals = [
        compute_diagonal(
            model,
            names,
            batches=batches,
            kind="mc_fisher",
            generator=torch.Generator().manual_seed(5),
            size_bytes=size,
        )
        for size in (1, 2**24)
        for batches in cut
    ]
    for other in diagonals[1:]:
        for key in names:
            assert_close(other[key], diagonals[0][key])


@pytest.mark.parametrize("classes", [1, 2, 3, 10, 40])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 2000.0])
def test_vectors_factor_the_curvature_of_the_softmax(classes: int, scale: float) -> None:
    logits = scale * torch.randn(
        6, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(classes)
    )
    vectors = compute_ggn_vectors(logits)
    assert vectors.shape == (classes - 1, 6, classes)
    p = logits.softmax(1)
    assert_close(
        torch.einsum("knc,knd->ncd", vectors, vectors),
        torch.diag_embed(p) - p[:, :, None] * p[:, None, :],
        1e-15,
    )


def test_a_confident_network_keeps_its_precision_in_float32() -> None:
    logits = torch.tensor([[0.0, 14.0, 1.0], [14.0, 0.0, 1.0], [0.0, 1.0, 14.0]])
    diagonal = torch.einsum("knc,knc->nc", *[compute_ggn_vectors(logits)] * 2)
    p = logits.double().softmax(1)
    others = p.sum(1, keepdim=True) - p  # 1 - p loses its digits in float32
    assert torch.allclose(diagonal.double(), p * others, rtol=2e-5, atol=0)


def test_default_curvature_by_the_number_of_classes() -> None:
    assert [choose_curvature(classes) for classes in (1, 20, 21, 1000)] == [
        "ggn",
        "ggn",
        "mc_fisher",
        "mc_fisher",
    ]
    kinds: tuple[tuple[int, Curvature], ...] = ((20, "ggn"), (21, "mc_fisher"))
    for classes, kind in kinds:
        model = nn.Linear(3, classes).double()
        batches = [(torch.randn(4, 3, dtype=torch.float64), torch.arange(4))]
        requests: tuple[Curvature | None, ...] = (None, kind)
        default, named = (
            Evidence(model, batches=batches, generator=torch.Generator().manual_seed(9)).curvature(
                requested
            )
            for requested in requests
        )
        assert torch.equal(default["weight"], named["weight"])


def test_each_kind_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, labels = build_network("conv and linear")
    evidence = Evidence(model, batches=[(images, labels)])
    kinds: tuple[Curvature, ...] = ("ggn", "mc_fisher", "empirical_fisher")
    first = [evidence.curvature(kind) for kind in kinds]
    monkeypatch.setattr("pruning.evidence.evidence.compute_diagonal", None)
    assert all(
        evidence.curvature(kind) is diagonal for kind, diagonal in zip(kinds, first, strict=True)
    )


def test_curvature_of_another_loss_is_refused() -> None:
    model, images, labels = build_network("conv and linear")
    evidence = Evidence(
        model,
        batches=[(images, labels)],
        loss=lambda logits, y: (logits.sum(1) - y).square().mean(),
    )
    for kind in ("ggn", "mc_fisher"):
        with pytest.raises(EvidenceError, match=f"{kind} is known for softmax cross-entropy only"):
            evidence.curvature(kind)
    assert float(evidence.curvature("empirical_fisher")["0.weight"].sum()) > 0


def test_outputs_that_are_no_numbers_are_refused() -> None:
    model, images, labels = build_network("conv and linear")
    model.get_parameter("0.weight").data.fill_(torch.nan)
    for kind in ("ggn", "mc_fisher"):
        with pytest.raises(ScoreError, match="outputs are not finite"):
            Evidence(model, batches=[(images, labels)]).curvature(kind)
