"""Networks with channels of every kind, and short ways to remove some of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.allocations import allocations
from pruning.channels.graph import ChannelGraph
from pruning.granularities.channel import Channel
from pruning.masks import (
    apply_masks_,
    build_full_masks,
    find_prunable,
    select_weight_masks,
)
from pruning.networks.loading import load_model
from pruning.seeding import seeded
from pruning.sparsifiers import sparsifiers
from pruning.types import Masks, Scores, Selected, Selection
from tests.support import cases

Build = Callable[[], nn.Module]


class Residual(nn.Module):
    """A sum of two branches, one of them called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice, self.head = (
            nn.Conv2d(2, 5, 3, padding=1),
            nn.Conv2d(5, 5, 1),
            nn.Linear(5 * 16, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = x + F.relu(self.twice(F.relu(self.twice(x))))
        return self.head(x.flatten(1))


class Concatenated(nn.Module):
    """Two branches beside each other and a BatchNorm over both, then one of them again."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(2, 4, 1)
        self.norm, self.mix, self.head = nn.BatchNorm2d(7), nn.Conv2d(7, 4, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        x = F.relu(self.norm(torch.cat([a, b], 1)))
        return self.head(torch.cat([self.mix(x), b], 1).mean((2, 3)))


class Gated(nn.Module):
    """Channels multiplied by what is computed from their means."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.down, self.up = nn.Conv2d(2, 6, 1), nn.Linear(6, 3), nn.Linear(3, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        gate = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3))))))
        return self.head((x * gate[:, :, None, None]).mean((2, 3)))


class Shuffled(nn.Module):
    """Channels in another order, which tracing does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = (
            nn.Conv2d(2, 6, 1),
            nn.BatchNorm2d(6),
            nn.Conv2d(6, 5, 1),
        )
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).unflatten(1, (2, 3)).transpose(1, 2).flatten(1, 2)
        return self.head(F.relu(self.second(x)).mean((2, 3)))


class Several(nn.Module):
    """Two outputs, where one is wanted."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(x.flatten(1)), x


def conv(*layers: nn.Module, features: int) -> nn.Module:
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 3))


def activated(activation: nn.Module, affine: bool) -> nn.Module:
    return conv(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.BatchNorm2d(6, affine=affine),
        activation,
        nn.Conv2d(6, 5, 3, bias=False),
        nn.BatchNorm2d(5, affine=affine),
        activation,
        features=20,
    )


NETS: dict[str, tuple[Build, tuple[int, int, int]]] = {
    "resnet_a": (
        lambda: load_model("cifar_resnet", depth=8, width=0.5, channels=2, classes=3),
        (2, 8, 8),
    ),
    "resnet_b": (
        lambda: load_model("cifar_resnet", depth=8, width=0.5, channels=2, classes=3, shortcut="B"),
        (2, 8, 8),
    ),
    "lenet": (lambda: load_model("lenet_300_100", classes=3), (1, 28, 28)),
    "mlp": (
        lambda: load_model("mlp", hidden=[9, 7], channels=2, height=4, width=4, classes=3),
        (2, 4, 4),
    ),
    "conv_net": (lambda: cases.conv_net(), (1, 4, 4)),
    "grouped": (
        lambda: conv(
            nn.Conv2d(2, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, groups=2),
            nn.ReLU(),
            nn.Conv2d(12, 6, 1, groups=3),
            features=24,
        ),
        (2, 4, 4),
    ),
    "whole_groups": (
        lambda: conv(
            nn.Conv2d(2, 4, 1),
            nn.Conv2d(4, 8, 3, groups=4),
            nn.Conv2d(8, 4, 1, groups=4),
            features=16,
        ),
        (2, 4, 4),
    ),
    "separable": (
        lambda: conv(
            nn.Conv2d(2, 6, 1),
            nn.BatchNorm2d(6),
            nn.ReLU6(),
            nn.Conv2d(6, 6, 3, groups=6, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU6(),
            nn.Conv2d(6, 5, 1),
            features=20,
        ),
        (2, 4, 4),
    ),
    "concatenated": (Concatenated, (2, 4, 4)),
    "residual": (Residual, (2, 4, 4)),
    "gated": (Gated, (2, 4, 4)),
    "sigmoid": (lambda: activated(nn.Sigmoid(), True), (2, 4, 4)),
    "softplus_flat": (lambda: activated(nn.Softplus(), False), (2, 4, 4)),
}
every_net = pytest.mark.parametrize("net", NETS)


def build(net: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """The network in float64 with BatchNorm that does something, in eval mode."""
    make, shape = NETS[net]
    with seeded(0):
        model = make().double().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
                    if tensor.dim():
                        tensor.data.uniform_(0.5, 1.5) if name != "bias" else tensor.data.normal_()
        return model, shape


def images(shape: tuple[int, int, int], n: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(
        n, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def noise(model: nn.Module, seed: int = 0, exclude: tuple[str, ...] = ()) -> Scores:
    rng = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(weight.shape, generator=rng)
        for name, weight in find_prunable(model, exclude).items()
    }


def select(
    model: nn.Module,
    shape: tuple[int, int, int],
    target: float,
    *,
    masks: Masks | None = None,
    scores: Scores | None = None,
    allocation: Any = "global",
    normalize: bool = True,
    exclude: tuple[str, ...] = (),
    round_to: int | None = 1,
    sparsifier: str = "top_k",
) -> Selected:
    weights = {name: weight.detach() for name, weight in find_prunable(model, exclude).items()}
    chosen = allocations.create(allocation) if isinstance(allocation, str) else allocation
    return Channel(normalize, round_to).select(
        Selection(
            model=model,
            weights=weights,
            scores=scores or noise(model, exclude=exclude),
            masks=masks or build_full_masks(weights),
            density=target,
            allocation=chosen,
            sparsifier=sparsifiers.create(sparsifier),
            generator=torch.Generator(),
            shape=lambda: shape,
        )
    )


def pruned(
    net: str, target: float = 0.5, **options: Any
) -> tuple[nn.Module, Masks, tuple[int, int, int]]:
    model, shape = build(net)
    masks = select(model, shape, target, **options).masks
    apply_masks_(model, masks)
    return model, masks, shape


def widths(model: nn.Module, masks: Masks, shape: tuple[int, int, int]) -> dict[str, int]:
    graph = ChannelGraph.of(model, shape, select_weight_masks(masks))
    keep = graph.kept(model, masks)
    return {group.name: int(keep[group.span].sum()) for group in graph.removable}
