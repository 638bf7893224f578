"""Compressed checkpoints: masks and byte planes of the values, through xz.

The file is one xz stream. Unpacked it is a header and the tensors one after another. The header is
its length (eight bytes, little-endian) and JSON: `{"format": "compressed", "version": 1, "tensors":
{name: {"shape": [...], "dtype": "float32", "planes": 4, "mask": "gaps", "mask_bytes": 17}}, ...}`.
The tensors follow in its order, each as its mask and its planes.

`mask` is the shorter of two: `bits`, the bitmask of a `sparse` file, or `gaps`, for every weight
that remains the number of removed ones before it since the last, a byte each; the byte 255 counts
255 removed weights and is followed by the rest of the number. Without `mask` all weights remain.
A plane holds one byte of every value in row-major order, the most significant plane comes first.
Bytes that a tensor has beyond its `planes` are zero: a float32 rounded to bfloat16 has two planes.

One byte of a float (its sign and exponent) is predictable and the others hardly are. In planes an
entropy coder learns each by itself; interleaved it learns none of them.
"""

from __future__ import annotations

import json
import lzma
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, ValidationError
from torch import Tensor

from pruning.errors import CheckpointError
from pruning.schemas.outputs import StoredValues
from pruning.storage.checkpoints import VERSION, check_pruned, name_dtype, write_aside
from pruning.storage.signatures import MAX_HEADER_BYTES
from pruning.types import Masks

FORMAT = "compressed"
MOST_BYTES = 2**34
"""The most bytes of the dense tensors that are read, unless the reader says more."""
MEMORY_BYTES = 2**27
"""The most memory of the decoder: it refuses a stream that asks for more."""
CHUNK_BYTES = 2**16
MOST_AXES = 16
"""The most dimensions of a tensor that are read."""
LONGEST_GAP = 255
"""The byte of a gap that goes on in the next byte."""
ROUNDED_PLANES = 2
"""The planes of a float32 that is rounded to bfloat16."""
FILTERS = ({"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 2**22, "lc": 0, "lp": 0, "pb": 0},)
"""LZMA without contexts: neighbouring bytes and positions say nothing of the bytes of a plane. The
dictionary is small, since weights do not repeat; coder and decoder take little memory.
"""
DTYPES = {
    name: getattr(torch, name)
    for name in (
        "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8",
        "bool", "complex64", "complex128",
    )
}  # fmt: skip

Bytes = NDArray[np.uint8]


class DescribedTensor(BaseModel):
    """A tensor as the header describes it."""

    shape: Annotated[tuple[NonNegativeInt, ...], Field(max_length=MOST_AXES)]
    dtype: str
    planes: PositiveInt
    mask: Literal["bits", "gaps"] | None = None
    mask_bytes: NonNegativeInt = 0

    @property
    def count(self) -> int:
        """The number of its values, removed ones included."""
        return math.prod(self.shape)


class Header(BaseModel):
    """The header of a file."""

    format: Literal["compressed"]
    version: Literal[1]
    values: StoredValues
    tensors: dict[str, DescribedTensor]


def write_compressed(
    path: Path,
    state: Mapping[str, Tensor],
    masks: Masks,
    *,
    values: StoredValues = "exact",
    **info: Any,
) -> None:
    """Write a state dict, the masked tensors without what is removed; `info` goes into the header.

    With `values="bfloat16"` tensors of float32 and of two dimensions or more, which are the weights
    of layers, are rounded to the nearest bfloat16; others stay exact. Beside the state no more than
    one tensor is held in memory. Equal networks give equal bytes with equal versions of liblzma.
    Raises `CheckpointError` for a weight outside its mask that is not zero, and for one that is
    finite and beyond the largest bfloat16, and for a tensor of a type that is not in `DTYPES`.

    >>> import tempfile
    >>> weight = torch.tensor([[0.5, 0.0, 0.0, -2.0]])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "w.compressed.xz"
    ...     write_compressed(path, {"w": weight}, {"w": weight != 0})
    ...     read_compressed(path)
    {'w': tensor([[ 0.5000,  0.0000,  0.0000, -2.0000]])}
    """
    names = sorted(state)
    described = {name: _describe(name, state[name], masks.get(name), values) for name in names}
    meta = {"format": FORMAT, "version": VERSION, "values": values, "tensors": described, **info}
    header = json.dumps(meta, sort_keys=True).encode()
    with write_aside(path) as aside, lzma.open(aside, "wb", filters=list(FILTERS)) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name in names:
            tensor, mask = _round(name, state[name], values), masks.get(name)
            if mask is not None:
                file.write(_encode_mask(mask)[1])
                tensor = tensor[mask.cpu()]
            planes = _view_bytes(tensor)[:, ::-1].T[: described[name]["planes"]]
            for plane in planes:
                file.write(plane.tobytes())


def read_compressed(path: Path, most_bytes: int = MOST_BYTES) -> dict[str, Tensor]:
    """The dense state dict of a compressed checkpoint, zeros where it was pruned.

    Tensors whose values were rounded are float32. Raises `CheckpointError` for a file that is
    damaged, and for tensors of more than `most_bytes` together, before they are read.
    """
    with _open(path) as stream:
        header = _read_header(stream)
        _check_sizes(header, most_bytes)
        state = {
            name: _read_tensor(stream, name, tensor) for name, tensor in header.tensors.items()
        }
        stream.finish()
    return state


def read_compressed_header(path: Path) -> str:
    """The JSON of the header; no tensor is read. Raises `CheckpointError`."""
    with _open(path) as stream:
        return _read_json(stream)


class _Stream:
    """The unpacked bytes of an xz file, read piece by piece."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY_BYTES)

    def read(self, size: int) -> Bytes:
        """The next `size` bytes; `CheckpointError` where there are fewer."""
        pieces = []
        while size:
            piece = self._unpack(size)
            if not piece:
                raise CheckpointError(f"it ends {size} bytes too early")
            pieces.append(piece)
            size -= len(piece)
        return np.frombuffer(b"".join(pieces), np.uint8)

    def finish(self) -> None:
        """Check that nothing follows, and with it the checksum at the end."""
        if self._unpack(1) or self._decoder.unused_data or self._file.read(1):
            raise CheckpointError("more follows the last tensor")

    def _unpack(self, size: int) -> bytes:
        """At least one of the next bytes, at most `size`; none at the end."""
        while not self._decoder.eof:
            packed = self._file.read(CHUNK_BYTES) if self._decoder.needs_input else b""
            if self._decoder.needs_input and not packed:
                raise CheckpointError("it is cut short")
            piece = self._decoder.decompress(packed, size)
            if piece:
                return piece
        return b""


@contextmanager
def _open(path: Path) -> Iterator[_Stream]:
    """The unpacked bytes of a file; whatever is wrong with it is a `CheckpointError`."""
    try:
        with path.open("rb") as file:
            yield _Stream(file)
    except (CheckpointError, ValidationError, lzma.LZMAError, OSError) as error:
        raise CheckpointError(
            f"{path.name}: not a compressed checkpoint of this service, or damaged ({error})"
        ) from None


def _read_json(stream: _Stream) -> str:
    length = int.from_bytes(stream.read(8).tobytes(), "little")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(f"a header of {length} bytes; at most {MAX_HEADER_BYTES} are read")
    try:
        return stream.read(length).tobytes().decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"its header is no text: {error}") from None


def _read_header(stream: _Stream) -> Header:
    return Header.model_validate_json(_read_json(stream))


def _check_sizes(header: Header, most_bytes: int) -> None:
    """Raise `CheckpointError` for sizes that no writer gives, before memory is taken for them."""
    total = 0
    for name, tensor in header.tensors.items():
        dtype = DTYPES.get(tensor.dtype)
        if dtype is None:
            raise CheckpointError(f"{name}: unknown type {tensor.dtype!r}")
        rounded = dtype == torch.float32 and tensor.planes == ROUNDED_PLANES
        if tensor.planes != dtype.itemsize and not rounded:
            raise CheckpointError(f"{name}: {tensor.planes} planes for {tensor.dtype}")
        bitmask_bytes = (tensor.count + 7) // 8
        is_bits = tensor.mask == "bits"
        if tensor.mask_bytes > bitmask_bytes or (is_bits and tensor.mask_bytes < bitmask_bytes):
            raise CheckpointError(
                f"{name}: a mask of {tensor.mask_bytes} bytes for {tensor.count} weights"
            )
        total += tensor.count * dtype.itemsize
    if total > most_bytes:
        raise CheckpointError(f"its tensors have {total} bytes, at most {most_bytes} are read")


def _read_tensor(stream: _Stream, name: str, described: DescribedTensor) -> Tensor:
    dtype: torch.dtype = DTYPES[described.dtype]
    mask = None
    kept = described.count
    if described.mask is not None:
        mask = _decode_mask(name, stream.read(described.mask_bytes), described)
        kept = int(np.count_nonzero(mask))
    content = np.zeros((kept, dtype.itemsize), np.uint8)
    for number in range(1, described.planes + 1):
        content[:, -number] = stream.read(kept)
    if dtype == torch.bool and content.max(initial=0) > 1:
        raise CheckpointError(f"{name}: a truth value is neither 0 nor 1")
    values = torch.from_numpy(content.reshape(-1)).view(dtype)
    if mask is None:
        return values.reshape(described.shape)
    dense = torch.zeros(described.count, dtype=dtype)
    dense[torch.from_numpy(mask)] = values
    return dense.reshape(described.shape)


def _describe(
    name: str, tensor: Tensor, mask: Tensor | None, values: StoredValues
) -> dict[str, Any]:
    """The entry of a tensor in the header."""
    if DTYPES.get(name_dtype(tensor)) is not tensor.dtype:
        raise CheckpointError(f"{name}: tensors of {name_dtype(tensor)} cannot be stored")
    entry: dict[str, Any] = {
        "shape": list(tensor.shape),
        "dtype": name_dtype(tensor),
        "planes": ROUNDED_PLANES if _is_rounded(tensor, values) else tensor.element_size(),
    }
    if mask is None:
        return entry
    check_pruned(name, tensor, mask)
    coding, content = _encode_mask(mask)
    return entry if coding is None else entry | {"mask": coding, "mask_bytes": len(content)}


def _is_rounded(tensor: Tensor, values: StoredValues) -> bool:
    return values == "bfloat16" and tensor.dtype == torch.float32 and tensor.dim() > 1


def _round(name: str, tensor: Tensor, values: StoredValues) -> Tensor:
    """The tensor on the CPU, its values rounded where they are to be."""
    tensor = tensor.detach().cpu()
    if not _is_rounded(tensor, values):
        return tensor
    rounded = tensor.bfloat16().float()
    if bool((rounded.isinf() & tensor.isfinite()).any()):
        raise CheckpointError(f"{name}: a weight is beyond the largest bfloat16")
    return rounded


def _view_bytes(tensor: Tensor) -> Bytes:
    """The bytes of a tensor (values, bytes of one value), the least significant first."""
    content: Bytes = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return content.reshape(-1, tensor.element_size())


def _encode_mask(mask: Tensor) -> tuple[str | None, bytes]:
    """The shorter coding of a mask and its bytes; None and no bytes where all weights remain."""
    flat: NDArray[np.bool_] = mask.cpu().numpy().reshape(-1)
    if flat.all():
        return None, b""
    gaps = _encode_gaps(flat)
    bits = np.packbits(flat, bitorder="big")
    return ("gaps", gaps.tobytes()) if len(gaps) < len(bits) else ("bits", bits.tobytes())


def _encode_gaps(mask: NDArray[np.bool_]) -> Bytes:
    """The gaps before the weights that remain, in bytes.

    >>> _encode_gaps(np.arange(600) % 300 == 299)
    array([255,  44, 255,  44], dtype=uint8)
    """
    gaps = np.diff(np.flatnonzero(mask), prepend=-1) - 1
    ends = np.cumsum(gaps // LONGEST_GAP + 1) - 1
    encoded = np.full(ends[-1] + 1 if len(ends) else 0, LONGEST_GAP, np.uint8)
    encoded[ends] = gaps % LONGEST_GAP
    return encoded


def _decode_mask(name: str, content: Bytes, described: DescribedTensor) -> NDArray[np.bool_]:
    """The mask (weights,) of its bytes; `CheckpointError` for bytes that no mask has."""
    count = described.count
    if described.mask == "bits":
        bits = np.unpackbits(content, bitorder="big").astype(bool)
        if bits[count:].any():
            raise CheckpointError(f"{name}: bits are set beyond the last of {count} weights")
        return bits[:count]
    if len(content) and content[-1] == LONGEST_GAP:
        raise CheckpointError(f"{name}: its last gap has no end")
    is_end = content < LONGEST_GAP
    ends = np.cumsum(content, dtype=np.int64)[is_end] + np.arange(np.count_nonzero(is_end))
    if len(ends) and ends[-1] >= count:
        raise CheckpointError(f"{name}: a gap reaches beyond the last of {count} weights")
    mask = np.zeros(count, dtype=bool)
    mask[ends] = True
    return mask
