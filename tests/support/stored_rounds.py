"""The networks and losses of a round, in memory instead of a stage file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pruning.types import Masks
from tests.support import cases


@dataclass(frozen=True, kw_only=True)
class RoundInMemory:
    """A round whose networks are built by functions; without masks, and of one shape."""

    build: Callable[[], nn.Module] = cases.mlp
    """Builds the network as it was measured last."""
    build_unretrained: Callable[[], nn.Module | None] = lambda: None
    """Builds the network right after pruning, where it was kept."""
    loss_before: Tensor = field(default_factory=lambda: torch.zeros(1))
    loss_after: Tensor = field(default_factory=lambda: torch.zeros(1))

    def masks(self) -> Masks:
        return {}

    def network(self) -> nn.Module:
        return self.build()

    def full_size(self) -> nn.Module:
        return self.build()

    def unretrained(self) -> nn.Module | None:
        return self.build_unretrained()

    def losses(self) -> tuple[Tensor, Tensor]:
        return self.loss_before, self.loss_after
