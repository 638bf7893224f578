"""The memory layout in which a network trains."""

from __future__ import annotations

import torch
from torch import nn

VECTOR = 16
"""The float32 values of the widest vector register of a CPU."""


def choose_layout(model: nn.Module) -> torch.memory_format:
    """Channels last for a network with convolutions, which is faster; else contiguous.

    A network with a strided 1x1 convolution of fewer input channels than a vector register holds
    stays contiguous: in oneDNN 3.12 (torch 2.13) the gradient of its weights is written beyond the
    end of a buffer on CPUs with AVX2, which ends the process.

    >>> choose_layout(nn.Conv2d(3, 8, 3)), choose_layout(nn.Linear(3, 8))
    (torch.channels_last, torch.contiguous_format)
    >>> choose_layout(nn.Conv2d(4, 8, 1, stride=2))
    torch.contiguous_format
    """
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    if not convolutions or any(_is_narrow_shortcut(layer) for layer in convolutions):
        return torch.contiguous_format
    return torch.channels_last


def _is_narrow_shortcut(layer: nn.Conv2d) -> bool:
    inputs = layer.in_channels // layer.groups
    return layer.kernel_size == (1, 1) and max(layer.stride) > 1 and inputs < VECTOR
