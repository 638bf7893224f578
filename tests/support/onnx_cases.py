"""Networks that are exported to ONNX, and what their files hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from pruning.seeding import seeded

SHAPE = (3, 8, 8)


def build_conv_net() -> nn.Module:
    """Convolutions with BatchNorm that rescales, and a linear layer, for images of `SHAPE`."""
    with seeded(3):
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 3),
        )
        norm = network[1]
        assert isinstance(norm, nn.BatchNorm2d)
        for tensor in (norm.weight.data, norm.running_var):
            assert tensor is not None
            tensor.uniform_(0.5, 1.5)
    return network.eval()


def read_initializers(path: Path) -> dict[str, torch.Tensor]:
    """The constants of an ONNX file by name."""
    onnx: Any = __import__("onnx.numpy_helper")
    graph = onnx.load(str(path)).graph
    return {
        item.name: torch.from_numpy(onnx.numpy_helper.to_array(item).copy())
        for item in graph.initializer
    }
