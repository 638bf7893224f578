"""Semi-structured checkpoints: 2 of every 4 weights in the layout of PyTorch's sparse kernels.

A tensor `<name>` of which at most 2 of every 4 consecutive inputs remain is stored as
`<name>.values` (out, K / 2), float16, and `<name>.indices` (out, K / 16), int16, with K = h w in
inputs, in which the input channel varies fastest. An index has two bits; four bits are the places
of the two values of a quadruple, the first in the low bits, and four quadruples fill an int16.
The indices are then reordered as the CUTLASS kernels behind
`torch.sparse.SparseSemiStructuredTensorCUTLASS` read them. Of 1 of every 2 weights the values are
float32, and the indices (out, K / 8). Other tensors are stored as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruning.errors import CheckpointError
from pruning.storage.checkpoints import read_tensors, write_tensors
from pruning.types import Masks

ROWS = 32
"""The outputs of a layer are a multiple of it for the kernels."""
COLUMNS = {torch.float16: 64, torch.float32: 32}
"""The inputs are a multiple of it, by the type of the values."""
PLACES = {
    1: (0, 2), 2: (1, 2), 3: (0, 1), 4: (2, 3), 5: (0, 2), 6: (1, 2),
    8: (2, 3), 9: (0, 3), 10: (1, 3), 12: (2, 3), 0: (2, 3),
}  # fmt: skip
"""The places of the two stored values by the pattern of a quadruple, whose bit j says whether
weight j is not zero; a quadruple with fewer than two such weights stores a zero.
"""


def write_semi_structured(
    path: Path, state: Mapping[str, Tensor], masks: Masks, **info: Any
) -> tuple[str, ...]:
    """Write a state dict; returns the names of the tensors that have the layout.

    Values of 2 of 4 are rounded to float16, the type that the kernels multiply; those of 1 of 2
    are exact.
    """
    tensors: dict[str, Tensor] = {}
    described: dict[str, dict[str, Any]] = {}
    for name, value in state.items():
        value = value.detach().cpu().contiguous()
        dtype = _choose_type(value) if name in masks else None
        if dtype is None:
            tensors[name] = value
            continue
        values, indices = encode(_as_matrix(value).to(dtype))
        tensors |= {f"{name}.values": values, f"{name}.indices": indices}
        described[name] = {"shape": list(value.shape), "dtype": str(dtype).removeprefix("torch.")}
    write_tensors(path, tensors, "semi_structured", described=described, info=info)
    return tuple(described)


def read_semi_structured(path: Path) -> dict[str, Tensor]:
    """The dense state dict of a file; the values keep the type that they are stored in.

    Raises `CheckpointError` for a file that was not written here.
    """
    state, described = read_tensors(path, "semi_structured")
    for name, description in described.items():
        values, indices = state.pop(f"{name}.values", None), state.pop(f"{name}.indices", None)
        if values is None or indices is None:
            raise CheckpointError(f"{name}: values or indices are missing")
        out, inputs, *kernel = description.shape
        matrix = decode(values, indices)
        unfolded = matrix.reshape(out, *kernel, inputs)
        state[name] = unfolded.movedim(-1, 1).contiguous()
    return state


def encode(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The values and the indices of a matrix (out, K) that has the pattern of its type.

    >>> matrix = torch.eye(32).repeat(1, 2).half()
    >>> values, indices = encode(matrix)
    >>> values.shape, indices.shape, bool((decode(values, indices) == matrix).all())
    (torch.Size([32, 32]), torch.Size([32, 4]), True)
    """
    quadruples = _as_quadruples(matrix)
    bits = (quadruples != 0).long() @ torch.tensor([1, 2, 4, 8])
    table = torch.tensor([PLACES.get(pattern, (-1, -1)) for pattern in range(16)])
    places = table[bits]
    if bool((places < 0).any()):
        raise CheckpointError("more than 2 of 4 weights remain, or more than 1 of 2")
    if matrix.dtype == torch.float32:
        # A pair is stored in two places of a quadruple, which hold the two halves of one float32.
        values = _as_pairs(matrix).gather(-1, places[..., :1] // 2)
    else:
        values = quadruples.gather(-1, places)
    nibbles = places[..., 0] + 4 * places[..., 1]
    words = nibbles.reshape(len(matrix), -1, 4) @ torch.tensor([1, 16, 256, 4096])
    return values.reshape(len(matrix), -1), _reorder(words.to(torch.int16))


def decode(values: Tensor, indices: Tensor) -> Tensor:
    """The matrix (out, K) of values and indices."""
    words = _restore_order(indices).long() & 0xFFFF
    nibbles = (words[..., None] >> torch.tensor([0, 4, 8, 12])) & 15
    places = torch.stack([nibbles & 3, nibbles >> 2], -1).reshape(len(values), -1, 2)
    if values.dtype == torch.float32:
        width, places, parts = 2, places[..., :1] // 2, values[..., None]
    else:
        width, parts = 4, values.reshape(*places.shape)
    groups = torch.zeros(*places.shape[:2], width, dtype=values.dtype)
    return groups.scatter_(-1, places, parts).reshape(len(values), -1)


def _choose_type(weight: Tensor) -> torch.dtype | None:
    """The type in which a weight's values are stored; None where it does not fit the kernels."""
    if weight.dim() < 2:
        return None
    matrix = _as_matrix(weight)
    for dtype, size in ((torch.float32, 2), (torch.float16, 4)):
        rows, columns = matrix.shape
        if rows % ROWS or columns % COLUMNS[dtype]:
            continue
        remaining = (matrix.reshape(rows, -1, size) != 0).sum(-1)
        if int(remaining.max()) <= size // 2 and bool(matrix.to(dtype).isfinite().all()):
            return dtype
    return None


def _as_matrix(weight: Tensor) -> Tensor:
    """A weight (out, in, ...) as a matrix (out, K) in which the input channel varies fastest."""
    return weight.movedim(1, -1).reshape(len(weight), -1)


def _as_quadruples(matrix: Tensor) -> Tensor:
    """The groups (out, quadruples, 4) that one nibble of indices describes.

    In float32 a nibble describes a pair, each of whose weights takes two of the four places.
    """
    if matrix.dtype == torch.float32:
        return _as_pairs(matrix).repeat_interleave(2, -1)
    return matrix.reshape(len(matrix), -1, 4)


def _as_pairs(matrix: Tensor) -> Tensor:
    return matrix.reshape(len(matrix), -1, 2)


def _reorder(words: Tensor) -> Tensor:
    """The indices (out, words) as the kernels read them.

    Of 32 rows each eighth comes next to another, each block of 2 x 2 is transposed, and the
    columns follow each other in pairs.
    """
    rows, columns = words.shape
    interwoven = words.reshape(rows // ROWS, 4, 8, columns).transpose(1, 2)
    blocks = interwoven.reshape(rows // 2, 2, columns // 2, 2)
    return blocks.permute(2, 0, 3, 1).reshape(rows, columns)


def _restore_order(indices: Tensor) -> Tensor:
    """The inverse of `_reorder`."""
    rows, columns = indices.shape
    blocks = indices.reshape(columns // 2, rows // 2, 2, 2).permute(1, 3, 0, 2)
    interwoven = blocks.reshape(rows // ROWS, 8, 4, columns).transpose(1, 2)
    return interwoven.reshape(rows, columns)
