"""Gradients of single images and the diagonal of the curvature, against explicit Jacobians in
float64.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
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
from pruning.evidence.gradients import (
    Footprint,
    compute_image_gradients,
    compute_products,
    multiply_use,
)
from pruning.masks import find_prunable
from pruning.networks.layers import Use, extract_patches

CLASSES = 4
IMAGES = 5


class Tied(nn.Module):
    """A network with two layers that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.head = nn.Linear(8, CLASSES)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x.flatten(1)[:, :8])))))


class Twice(nn.Module):
    """One convolution called twice, on images of different size, and one layer never called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.head = nn.Linear(8, CLASSES)
        self.idle = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(
            torch.tanh(self.conv(F.max_pool2d(torch.tanh(self.conv(x)), 2))).flatten(1)
        )


class Tokens(nn.Module):
    """Linear layers at every position of the image, on inputs of more than two dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(2, 3)
        self.mix = nn.Linear(3, 3)
        self.head = nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.tanh(self.embed(x.permute(0, 2, 3, 1)))
        return self.head(torch.tanh(self.mix(tokens.flatten(1, 2))).mean(1))


class Residual(nn.Module):
    """A block that adds in place, with BatchNorm in eval mode, and a branch whose output is not
    used.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 3, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.branch = nn.Conv2d(3, 3, 3, padding=1)
        self.lost = nn.Conv2d(3, 1, 1)
        self.head = nn.Linear(48, CLASSES)
        assert self.norm.running_var is not None
        self.norm.running_var.fill_(1.7)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)), inplace=True)
        self.lost(x)
        y = self.branch(x)
        y += x
        return self.head(torch.relu_(y).flatten(1))


def build_sequence(*layers: nn.Module, features: int) -> nn.Module:
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, CLASSES))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "conv and linear": lambda: build_sequence(
        nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), features=48
    ),
    "oblong": lambda: build_sequence(
        nn.Conv2d(2, 3, (1, 3), padding="same"), nn.Tanh(), features=48
    ),
    "grouped": lambda: build_sequence(
        nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.Tanh(), features=64
    ),
    "depthwise": lambda: build_sequence(
        nn.Conv2d(2, 2, 3, padding=1, groups=2), nn.Tanh(), features=32
    ),
    "multiplied depthwise": lambda: build_sequence(
        nn.Conv2d(2, 6, 3, groups=2), nn.Tanh(), features=24
    ),
    "pointwise": lambda: build_sequence(nn.Conv2d(2, 3, 1, bias=False), nn.Tanh(), features=48),
    "strided": lambda: build_sequence(
        nn.Conv2d(2, 3, 3, stride=(2, 1), padding=(1, 0)), nn.Tanh(), features=12
    ),
    "dilated": lambda: build_sequence(nn.Conv2d(2, 3, 2, dilation=(2, 3)), nn.Tanh(), features=6),
    "circular": lambda: build_sequence(
        nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode="circular"), nn.Tanh(), features=72
    ),
    "reflected": lambda: build_sequence(
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), nn.Tanh(), features=48
    ),
    "inplace": lambda: build_sequence(
        nn.Conv2d(2, 3, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(3, 3, 2),
        nn.ReLU(inplace=True),
        features=3,
    ),
    "tied": Tied,
    "twice": Twice,
    "tokens": Tokens,
    "residual": Residual,
}


def build_network(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """Build a seeded float64 network in training mode, with images and labels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = NETWORKS[name]().double().train()
        return (
            model,
            torch.randn(IMAGES, 2, 4, 4, dtype=torch.float64),
            torch.arange(IMAGES) % CLASSES,
        )


def compute_jacobian(model: nn.Module, images: Tensor, name: str) -> Tensor:
    """Compute d f_c(x_i) / d weight by a backward pass for each image and class."""
    weight = model.get_parameter(name)
    modes = [module.training for module in model.modules()]
    model.eval()
    by_image = []
    for image in images:
        logits = model(image[None])[0]
        rows = [
            torch.autograd.grad(logit, weight, retain_graph=True, allow_unused=True)[0]
            for logit in logits
        ]
        connected = [torch.zeros_like(weight) if row is None else row for row in rows]
        by_image.append(torch.stack(connected))
    for module, training in zip(model.modules(), modes, strict=True):
        module.training = training
    return torch.stack(by_image)


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    """Assert that two tensors are equal up to rounding of the largest entry."""
    assert actual.shape == expected.shape
    assert float((actual - expected).abs().max()) <= tolerance * max(
        1.0, float(expected.abs().max())
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_products_are_rows_of_the_jacobian(name: str) -> None:
    model, images, _ = build_network(name)
    vectors = torch.randn(
        3, IMAGES, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    names = list(find_prunable(model))
    products = dict(compute_products(model, names, images, lambda logits: vectors))
    assert list(products) == names
    for key in names:
        assert_close(
            products[key],
            torch.einsum("kic,ic...->ik...", vectors, compute_jacobian(model, images, key)),
        )


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_single_images(name: str) -> None:
    model, images, labels = build_network(name)
    names = list(find_prunable(model))
    batches = [(images[:3], labels[:3]), (images[3:], labels[3:])]
    for size in (1, 2**20):
        parts = list(compute_image_gradients(model, names, batches, size_bytes=size))
        gradients = {key: torch.cat([part[key] for part in parts]) for key in names}
        model.eval()
        for index in range(IMAGES):
            loss = F.cross_entropy(model(images[index : index + 1]), labels[index : index + 1])
            expected = torch.autograd.grad(
                loss, [model.get_parameter(key) for key in names], allow_unused=True
            )
            for key, gradient in zip(names, expected, strict=True):
                assert_close(
                    gradients[key][index],
                    torch.zeros_like(gradients[key][index]) if gradient is None else gradient,
                )


def test_gradients_of_another_loss() -> None:
    model, images, labels = build_network("conv and linear")

    def smooth(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=0.2)

    gradients = next(compute_image_gradients(model, ["0.weight"], [(images, labels)], smooth))[
        "0.weight"
    ]
    weight = model.get_parameter("0.weight")
    model.eval()
    for index in range(IMAGES):
        loss = smooth(model(images[index : index + 1]), labels[index : index + 1])
        assert_close(gradients[index], torch.autograd.grad(loss, weight)[0])


def test_a_weight_used_without_a_call_of_its_layer_is_refused() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)
            self.idle = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.layer.weight.T

    with pytest.raises(EvidenceError, match=r"layer\.weight is used without a call of its layer"):
        list(
            compute_products(
                Hidden(),
                ["layer.weight", "idle.weight"],
                torch.ones(1, 3),
                lambda logits: logits[None],
            )
        )


def test_one_layer_at_a_time_and_within_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def watched(use: Use, delta: Tensor) -> Tensor:
        gradients = multiply_use(use, delta)
        sizes.extend(
            (gradients.nbytes, delta.nbytes, extract_patches(use.layer, use.inputs).nbytes)
        )
        return gradients

    monkeypatch.setattr("pruning.evidence.gradients.multiply_use", watched)
    model, images, labels = build_network("conv and linear")
    many = torch.cat([images] * 8), torch.cat([labels] * 8)
    for limit in (8_000, 40_000):
        sizes.clear()
        names = list(find_prunable(model))
        gradients = compute_diagonal(
            model, names, batches=[many], kind="ggn", generator=torch.Generator(), size_bytes=limit
        )
        assert limit / 4 < max(sizes) <= limit
        for name in names:
            assert_close(gradients[name], compute_exact(model, images, name))


def test_the_vectors_are_split_where_one_image_is_too_large() -> None:
    model, images, labels = build_network("twice")
    names = list(find_prunable(model))
    assert Footprint.from_forward_pass(model, names, images).count_vectors(1) == 1
    diagonal = compute_diagonal(
        model,
        names,
        batches=[(images, labels)],
        kind="ggn",
        generator=torch.Generator(),
        size_bytes=1,
    )
    for name in names:
        assert_close(diagonal[name], compute_exact(model, images, name))


def compute_exact(model: nn.Module, images: Tensor, name: str) -> Tensor:
    """Compute diag(J^T (diag p - p p^T) J), the mean over images, from the whole Jacobian."""
    rows = compute_jacobian(model, images, name).flatten(2)
    modes = [module.training for module in model.modules()]
    p = model.eval()(images).detach().softmax(1)
    for module, training in zip(model.modules(), modes, strict=True):
        module.training = training
    middle = torch.stack([torch.diag(softmax) - torch.outer(softmax, softmax) for softmax in p])
    return (
        torch.stack([(row.T @ m @ row).diag() for row, m in zip(rows, middle, strict=True)])
        .mean(0)
        .view_as(model.get_parameter(name))
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
    seeds = (torch.Generator().manual_seed(seed) for seed in range(400))
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


def test_labels_are_drawn_as_the_softmax_says() -> None:
    logits = (
        torch.tensor([[0.0, -torch.inf, 1.0, 2.0]], dtype=torch.float64)
        .clamp_min(-1e4)
        .repeat(40_000, 1)
    )
    p = logits[0].softmax(0)
    vectors = compute_fisher_vectors(
        torch.rand(40_000, dtype=torch.float64, generator=torch.Generator().manual_seed(3)), logits
    )[0]
    shares = ((p - vectors) > 0.5).double().mean(0)
    assert float(shares[1]) == 0.0
    assert torch.allclose(shares, p, atol=4 * 0.5 / 40_000**0.5)
    first_and_last = torch.tensor([[-1e4, 0.0, 1.0, 2.0, -1e4]] * 2, dtype=torch.float64)
    edges = compute_fisher_vectors(
        torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64), first_and_last
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
