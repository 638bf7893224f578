"""A table of awkward networks, and tiny data and recipes on which pipelines run quickly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pruning.data.tensors import Data, Split
from pruning.masks import find_prunable
from pruning.schemas.recipe import Recipe, Targets
from pruning.seeding import seeded
from pruning.types import Masks

torch.set_num_threads(1)  # the networks are tiny, and other suites run beside this one


class Tied(nn.Module):
    """Two layers that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x.flatten(1))))))


def _build_conv(*layers: nn.Module, features: int) -> nn.Sequential:
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 3))


def _build_frozen() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    net.get_parameter("1.weight").requires_grad_(False)
    return net


def _build_flat_batchnorm() -> nn.Module:
    net = _build_conv(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), features=8)
    net.get_buffer("1.running_var").zero_()
    return net


def _build_zero_weights() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    return net


def _build_mixed_modes() -> nn.Module:
    net = _build_conv(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5), features=8).train()
    net[1].eval()
    return net


AWKWARD: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "plain": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)),
        (1, 2, 2),
    ),
    "grouped": (
        lambda: _build_conv(nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.ReLU(), features=24),
        (4, 2, 2),
    ),
    "depthwise": (
        lambda: _build_conv(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.ReLU(), features=16),
        (4, 2, 2),
    ),
    "pointwise": (
        lambda: _build_conv(nn.Conv2d(3, 5, 1, bias=False), nn.ReLU(), features=20),
        (3, 2, 2),
    ),
    "strided": (
        lambda: _build_conv(nn.Conv2d(1, 3, 3, stride=2, padding=1, dilation=1), features=12),
        (1, 4, 4),
    ),
    "tied": (Tied, (1, 2, 2)),
    "frozen": (_build_frozen, (1, 2, 2)),
    "one_weight": (lambda: _build_conv(nn.Conv2d(1, 1, 1, bias=False), features=4), (1, 2, 2)),
    "flat_batchnorm": (_build_flat_batchnorm, (1, 2, 2)),
    "zero_weights": (_build_zero_weights, (1, 2, 2)),
    "mixed_modes": (_build_mixed_modes, (1, 2, 2)),
}
"""Networks of three classes, by name, with the shape of an image."""


def awkward(name: str) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """Build the network, seeded, and two batches of unequal size."""
    build, shape = AWKWARD[name]
    with seeded(0):
        model = build()
        batches = [(torch.randn(n, *shape), torch.arange(n) % 3) for n in (5, 2)]
        return model, batches


def half_masks(model: nn.Module) -> Masks:
    """Build masks that prune every second weight."""
    return {
        name: (torch.arange(weight.numel()) % 2 == 0).reshape(weight.shape)
        for name, weight in find_prunable(model).items()
    }


def make_data(
    *,
    fit: int = 40,
    val: int = 10,
    test: int = 30,
    classes: int = 3,
    shape: tuple[int, int, int] = (1, 4, 4),
    seed: int = 0,
) -> Data:
    """Draw random images in which each class is bright in its own rows.

    A tiny network learns them.
    """
    rng = torch.Generator().manual_seed(seed)

    def split(n: int) -> Split:
        labels = torch.arange(n) % classes
        images = torch.randint(0, 120, (n, *shape), generator=rng)
        images[torch.arange(n), :, labels % shape[1]] += 100
        return Split(images.to(torch.uint8), labels)

    return Data(
        fit=split(fit),
        val=split(val),
        test=split(test),
        classes=tuple("abcdefgh"[:classes]),
        mean=(0.4,) * shape[0],
        std=(0.25,) * shape[0],
    )


def mlp(seed: int = 0, hidden: int = 6, classes: int = 3, inputs: int = 16) -> nn.Module:
    """Build a seeded two-layer network."""
    with seeded(seed):
        return nn.Sequential(
            nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes)
        )


def conv_net(seed: int = 0, classes: int = 3, channels: int = 1, features: int = 64) -> nn.Module:
    """Build a seeded convolution with BatchNorm and a classifier."""
    with seeded(seed):
        return nn.Sequential(
            nn.Conv2d(channels, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(features, classes),
        )


def recipe(*sparsity: float, **fields: Any) -> Recipe:
    """Build a recipe with these targets."""
    return Recipe(targets=Targets(sparsity=sparsity or (0.5,)), **fields)
