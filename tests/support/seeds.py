"""Seeded generators."""

from __future__ import annotations

import torch
from torch import Generator


def make_generator(seed: int = 0) -> Generator:
    """Make a seeded generator."""
    return torch.Generator().manual_seed(seed)
