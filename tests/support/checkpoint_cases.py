"""A network with masks of every kind, and a comparison of its tensors."""

from __future__ import annotations

import torch

from pruning.types import Masks
from tests.support.pipelines import State


def network(
    dtype: torch.dtype = torch.float32,
    kept: float = 0.3,
    shapes: tuple[tuple[int, ...], ...] = ((3, 5), (2, 2, 3, 3), (1,), (8, 8), (7,)),
) -> tuple[State, Masks]:
    """A state dict with pruned tensors of odd sizes, buffers, and kept weights that are zero."""
    rng = torch.Generator().manual_seed(0)
    state: State = {
        "bias": torch.randn(3, generator=rng).to(dtype),
        "steps": torch.tensor(12),
        "flags": torch.tensor([True, False]),
        "table": torch.arange(5, dtype=torch.int32),
    }
    masks: Masks = {}
    for index, shape in enumerate(shapes):
        name = f"layer{index}.weight"
        masks[name] = torch.rand(shape, generator=rng) < kept
        weight = torch.randn(shape, generator=rng).to(dtype)
        weight[torch.rand(shape, generator=rng) < 0.2] = 0.0
        state[name] = weight.masked_fill(~masks[name], 0.0)
    return state, masks


def exactly(first: State, second: State) -> None:
    """Assert that two states have the same tensors, to the byte."""
    assert set(first) == set(second)
    for name in first:
        assert first[name].dtype == second[name].dtype
        assert first[name].shape == second[name].shape
        assert torch.equal(
            first[name].contiguous().reshape(-1).view(torch.uint8),
            second[name].contiguous().reshape(-1).view(torch.uint8),
        ), name
