"""Tiny networks of the convolutional families, the images they take, and their pruning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning.evidence.evidence import Evidence
from pruning.masks import (
    build_full_masks,
    find_prunable,
)
from pruning.networks.loading import load_model
from pruning.rounds.method import PruningMethod
from pruning.rounds.pruning import prune_
from pruning.seeding import seeded
from pruning.types import Masks
from tests.support import cases


@dataclass(frozen=True)
class Case:
    """A tiny network of a family, and the smallest images that exercise it."""

    architecture: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    side: int = 8
    groups: int = 0
    """The number of groups of channels that can be removed."""

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters for images of two channels, of three classes."""
        return self.kwargs | {"channels": 2, "classes": 3}

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an image."""
        return 2, self.side, self.side


CASES = {
    "vgg": Case("vgg", {"depth": 11, "width": 0.04}, 32, groups=8),
    "densenet": Case("densenet22", {"growth": 2}, groups=1 + 9 + 9 + 2),
    "densenet_basic": Case(
        "densenet22", {"growth": 2, "block": "basic", "compression": 1}, groups=1 + 18 + 2
    ),
    "densenet_odd": Case("densenet22", {"growth": 3, "compression": 0.3}, 7, groups=1 + 9 + 9 + 2),
    # of a wide ResNet the stem, where the first stage has its width, is in the sum of that stage
    "wide_resnet": Case("wide_resnet", {"depth": 16, "width": 0.25}, groups=1 + 3 + 6),
    "wide_resnet_1": Case("wide_resnet", {"depth": 10, "width": 1}, groups=3 + 3),
    "bottleneck_a": Case(
        "cifar_resnet", {"depth": 20, "width": 0.25, "block": "bottleneck"}, groups=4 + 12
    ),
    "bottleneck_b": Case(
        "cifar_resnet",
        {"depth": 20, "width": 0.25, "block": "bottleneck", "shortcut": "B"},
        groups=4 + 12,
    ),
}
every_case = pytest.mark.parametrize("case", CASES)
one_of_each = pytest.mark.parametrize("case", ["vgg", "densenet", "wide_resnet", "bottleneck_b"])


def build(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Build the network, seeded, in eval mode.

    Its BatchNorm changes its inputs and lets some of them through.
    """
    case = CASES[name]
    with seeded(0):
        model = load_model(case.architecture, **case.parameters)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for key, tensor in [*module.named_parameters(), *module.named_buffers()]:
                    if tensor.dim():
                        tensor.data.normal_(0, 0.3) if key in (
                            "bias",
                            "running_mean",
                        ) else tensor.data.uniform_(0.5, 1.5)
        return model.to(dtype)


def images(name: str, n: int = 6, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw images for a case."""
    return torch.randn(
        n, *CASES[name].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    ).to(dtype)


def pruned(
    model: nn.Module, name: str, granularity: str, target: float = 0.5, masks: Masks | None = None
) -> Masks:
    """Prune a network in place by the size of its weights, and return its masks."""
    criterion = "filter_norm" if granularity == "channel" else "magnitude"
    recipe = cases.recipe(
        1 - target, criterion={"name": criterion}, granularity={"name": granularity}
    )
    return prune_(
        model,
        masks or build_full_masks(find_prunable(model)),
        target,
        PruningMethod.of(recipe, recipe.criteria[0]),
        lambda masks, stage: Evidence(model, masks, shape=CASES[name].shape),
        generator=torch.Generator(),
    )
