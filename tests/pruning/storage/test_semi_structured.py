"""Semi-structured files, against the conversion that comes with PyTorch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from pruning.errors import CheckpointError
from pruning.storage.semi_structured import (
    encode,
    read_semi_structured,
    write_semi_structured,
)


def draw_pattern(rows: int, columns: int, size: int, seed: int = 0) -> Tensor:
    """A matrix with at most half of every `size` weights, some groups with fewer or none."""
    generator = torch.Generator().manual_seed(seed)
    ranks = torch.rand(rows, columns // size, size, generator=generator).argsort(-1)
    weights = torch.randn(rows, columns, generator=generator)
    is_kept = (ranks < size // 2).reshape(rows, columns)
    is_zero = torch.rand(rows, columns, generator=generator) < 0.3
    return weights * (is_kept & ~is_zero)


@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.float16, 4), (torch.bfloat16, 4), (torch.float32, 2)]
)
def test_the_layout_is_that_of_pytorch(dtype: torch.dtype, size: int) -> None:
    matrix = draw_pattern(96, 192, size).to(dtype)
    values, indices = encode(matrix)
    wanted_values, wanted_indices = sparse_semi_structured_from_dense_cutlass(matrix)
    assert torch.equal(values, wanted_values)
    assert torch.equal(indices, wanted_indices)
    assert indices.dtype == wanted_indices.dtype


def test_a_file_reads_back(tmp_path: Path) -> None:
    convolution = draw_pattern(32, 192, 4, seed=1).reshape(32, 1, 3, 64).movedim(-1, 1)
    state = {
        "conv.weight": convolution.contiguous(),
        "fc.weight": draw_pattern(64, 64, 2, seed=2),
        "narrow.weight": draw_pattern(16, 64, 4, seed=3),
        "full.weight": torch.ones(32, 64),
        "fc.bias": torch.ones(64),
    }
    masks = {name: value != 0 for name, value in state.items() if value.dim() > 1}
    path = tmp_path / "f"
    assert write_semi_structured(path, state, masks, note="x") == ("conv.weight", "fc.weight")
    stored = load_file(path)
    values = stored["conv.weight.values"]
    assert (values.dtype, values.shape) == (torch.float16, (32, 96))
    matrix = sparse_semi_structured_to_dense_cutlass(values, stored["conv.weight.indices"])
    assert torch.equal(matrix.reshape(32, 1, 3, 64).movedim(-1, 1), convolution.half())
    read = read_semi_structured(path)
    assert sorted(read) == sorted(state)
    for name, value in state.items():
        wanted = value.half() if name == "conv.weight" else value
        assert torch.equal(read[name], wanted), name


def test_a_pattern_with_too_many_weights_is_refused() -> None:
    with pytest.raises(CheckpointError, match="more than 2 of 4"):
        encode(torch.ones(32, 64, dtype=torch.float16))
