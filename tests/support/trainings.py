"""Small trainings, and where they are kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pruning.schemas.training import Optimizer

State = dict[str, Tensor]
SGD = Optimizer(lr=0.05, momentum=0.9)


class Memory:
    """A saver that keeps every state it is given and hands out the one it is told."""

    def __init__(self, start: tuple[State, dict[str, Any]] | None = None) -> None:
        self.start, self.saved = start, list[tuple[State, dict[str, Any]]]()

    def load(self) -> tuple[State, dict[str, Any]] | None:
        return self.start

    def save(self, tensors: State, meta: dict[str, Any]) -> None:
        self.saved.append(
            (
                {key: value.detach().clone().contiguous() for key, value in tensors.items()},
                dict(meta),
            )
        )


def same(first: nn.Module, second: nn.Module) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return list(one) == list(other) and all(torch.equal(one[key], other[key]) for key in one)


class Cramped(nn.Module):
    """A network in whose memory only so many images fit."""

    def __init__(
        self, inner: nn.Module, most: int, error: type[Exception] = torch.OutOfMemoryError
    ) -> None:
        super().__init__()
        self.inner, self.most, self.error = inner, most, error

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            raise self.error("DefaultCPUAllocator: can't allocate memory")
        return self.inner(x)
