"""Awkward networks in float64 with their batches, and networks with half of their weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pruning.evidence.evidence import Batches
from pruning.masks import apply_masks_
from pruning.types import Masks
from tests.support import cases


def build_double(case: str) -> tuple[nn.Module, Batches]:
    """Build an awkward network and its batches in float64."""
    model, batches = cases.awkward(case)
    return model.double(), [(x.double(), y) for x, y in batches]


def mask_half(model: nn.Module) -> Masks:
    """Prune half of the weights, in the model too."""
    masks = cases.half_masks(model)
    apply_masks_(model, masks)
    return masks


def join_batches(batches: Batches) -> tuple[Tensor, Tensor]:
    """Join all batches to a single one."""
    inputs, labels = zip(*batches, strict=True)
    return torch.cat(inputs), torch.cat(labels)
