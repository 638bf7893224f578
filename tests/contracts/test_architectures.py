"""What every architecture must keep."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pruning.architectures import architectures
from pruning.masks import find_prunable
from pruning.networks.loading import load_state_
from tests.support.known_networks import VIT_CONFIG

SMALL: dict[str, dict[str, Any]] = {
    "huggingface": {"config": VIT_CONFIG},
    "imagenet_resnet": {"depth": 18, "width": 0.25, "classes": 10},
    "preact_resnet": {"width": 0.25},
    "timm": {"name": "test_efficientnet"},
    "torchvision": {"name": "mobilenet_v3_small"},
    "torchvision_segmentation": {"name": "lraspp_mobilenet_v3_large"},
}
"""Smaller networks than those by default, whose weights take seconds to draw."""


@pytest.mark.parametrize("name", architectures.names())
def test_architecture_builds_runs_and_reloads(name: str) -> None:
    architecture = architectures.create(name, SMALL.get(name))
    torch.manual_seed(0)
    model = architecture.build()
    channels, height, width = architecture.input_shape
    side = getattr(architecture, "smallest", 16)
    images = torch.randn(2, channels or 3, height or side, width or side)
    logits = model.eval()(images)
    pixel_shape = (
        images.shape[2:]
        if getattr(architecture, "task", "classification") == "segmentation"
        else ()
    )
    assert logits.shape == (2, architecture.outputs, *pixel_shape)
    assert torch.isfinite(logits).all()
    assert find_prunable(model)
    other = architecture.build().eval()
    load_state_(other, model.state_dict())
    assert torch.equal(other(images), logits)
    with torch.device("meta"):
        shapes = {
            key: tuple(value.shape) for key, value in architecture.build().state_dict().items()
        }
    assert shapes == {key: tuple(value.shape) for key, value in model.state_dict().items()}
