"""Helpers of small trainings: a saver in memory, a network without memory, and a comparison."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pruning.data.tensors import Data
from pruning.schemas.training import Optimizer
from tests.support import cases

State = dict[str, Tensor]
SGD = Optimizer(lr=0.05, momentum=0.9)


class Memory:
    """A saver that keeps every state it is given and loads the state `start`."""

    def __init__(self, start: tuple[State, dict[str, Any]] | None = None) -> None:
        self.start = start
        self.saved: list[tuple[State, dict[str, Any]]] = []

    def load(self) -> tuple[State, dict[str, Any]] | None:
        return self.start

    def save(self, tensors: State, meta: dict[str, Any]) -> None:
        copied = {key: value.detach().clone().contiguous() for key, value in tensors.items()}
        self.saved.append((copied, dict(meta)))


def same(first: nn.Module, second: nn.Module) -> bool:
    """Whether two networks have the same state dict, in the same order."""
    expected, state = first.state_dict(), second.state_dict()
    if list(expected) != list(state):
        return False
    return all(torch.equal(expected[key], state[key]) for key in expected)


class Cramped(nn.Module):
    """A network in whose memory at most `most` images fit."""

    def __init__(
        self, inner: nn.Module, most: int, error: type[Exception] = torch.OutOfMemoryError
    ) -> None:
        super().__init__()
        self.inner, self.most, self.error = inner, most, error

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            raise self.error("DefaultCPUAllocator: can't allocate memory")
        return self.inner(x)


def rgb() -> Data:
    return cases.make_data(fit=14, shape=(3, 8, 8))


def colour_net() -> nn.Module:
    return cases.conv_net(channels=3, features=256)
