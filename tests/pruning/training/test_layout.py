"""The memory layout of a training: channels last, where no narrow shortcut forbids it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pruning.networks import load_model
from pruning.training.layout import choose_layout
from pruning.training.loop import train_
from tests.support import cases


@pytest.mark.parametrize(
    ("layer", "layout"),
    [
        (nn.Conv2d(16, 32, 1, stride=2), torch.channels_last),
        (nn.Conv2d(15, 32, 1, stride=2), torch.contiguous_format),
        (nn.Conv2d(32, 32, 1, stride=2, groups=4), torch.contiguous_format),
        (nn.Conv2d(4, 8, 1), torch.channels_last),
        (nn.Conv2d(4, 8, 3, stride=2), torch.channels_last),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 9, 1, stride=2)), torch.contiguous_format),
        (nn.Flatten(), torch.contiguous_format),
    ],
)
def test_a_narrow_strided_shortcut_keeps_a_network_contiguous(
    layer: nn.Module, layout: torch.memory_format
) -> None:
    assert choose_layout(layer) is layout


def test_a_network_with_narrow_shortcuts_trains() -> None:
    """On CPUs with AVX2 alone, such a training ended its process in channels-last layout."""
    data = cases.make_data(shape=(2, 8, 8), fit=48, test=24)
    network = load_model("wide_resnet", depth=16, width=0.25, channels=2, classes=3)
    recipe = cases.recipe(0.5, train={"epochs": 8, "batch_size": 8, "optimizer": {"lr": 0.02}})
    assert recipe.train is not None
    train_(network, data, recipe.train, seed=0, name="dense")
    assert all(bool(parameter.isfinite().all()) for parameter in network.parameters())
