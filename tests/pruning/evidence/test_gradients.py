"""Gradients of single images and products with the Jacobian against single backward passes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.errors import EvidenceError
from pruning.evidence.curvature import (
    compute_diagonal,
)
from pruning.evidence.gradients import (
    Footprint,
    compute_image_gradients,
    compute_products,
    multiply_use,
)
from pruning.masks import find_prunable
from pruning.networks.layers import Use, extract_patches
from tests.support.curvature_cases import (
    CLASSES,
    IMAGES,
    NETWORKS,
    assert_close,
    build_network,
    compute_exact,
    compute_jacobian,
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
