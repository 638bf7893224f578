"""Sparse checkpoints: safetensors that hold a bitmask and the remaining values of every pruned
tensor.

`<name>.bitmask` (uint8): the mask over the flattened tensor in row-major order, eight to a byte,
most significant bit first. `<name>.values` (1-D): the remaining weights in that order. Other
tensors are stored as they are. The metadata entry `secateur` is JSON: `{"format": "sparse",
"version": 1, "tensors": {name: {"shape": [...], "dtype": "float32"}}, ...}`. There is one metadata
entry only: the order of several is not defined, and equal networks shall make equal files.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, NonNegativeInt, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pruning.errors import CheckpointError
from pruning.types import Masks

VERSION = 1
TYPES: Mapping[torch.dtype, str] = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The names of types in safetensors, in the order in which their tensors are written."""


def write_sparse(path: Path, state: Mapping[str, Tensor], masks: Masks, **info: Any) -> None:
    """Write a state dict, the masked tensors as bitmask and values; `info` goes into the metadata.

    Raises `CheckpointError` when a weight outside its mask is not zero: the file would not read
    back exactly.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        tensor = tensor.detach().cpu().contiguous()
        if name not in masks:
            tensors[name] = tensor
            continue
        mask = masks[name].cpu()
        check_pruned(name, tensor, mask)
        tensors[f"{name}.bitmask"] = _pack_bits(mask)
        tensors[f"{name}.values"] = tensor[mask]
    write_tensors(path, tensors, "sparse", described=_describe_tensors(state, masks), info=info)


def count_sparse_bytes(state: Mapping[str, Tensor], kept: Mapping[str, int], **info: Any) -> int:
    """Count the bytes of the file that `write_sparse` would write where `kept` says how many
    entries of some tensors remain; their values may be anywhere, or nowhere.
    """
    tensors: list[tuple[int, str, torch.dtype, list[int]]] = []
    order = list(TYPES)

    def add(name: str, dtype: torch.dtype, shape: Sequence[int]) -> None:
        tensors.append((order.index(dtype), name, dtype, list(shape)))

    for name, tensor in state.items():
        if name in kept:
            add(f"{name}.bitmask", torch.uint8, [(tensor.numel() + 7) // 8])
            add(f"{name}.values", tensor.dtype, [kept[name]])
        else:
            add(name, tensor.dtype, tensor.shape)
    meta = _describe_file("sparse", _describe_tensors(state, kept), info)
    header: dict[str, Any] = {"__metadata__": meta}
    end = 0
    for _, name, dtype, shape in sorted(tensors, key=lambda tensor: tensor[:2]):
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": TYPES[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return 8 + (len(text) + 7) // 8 * 8 + end


def read_sparse(path: Path) -> dict[str, Tensor]:
    """The dense state dict of a sparse checkpoint: exact, zeros where it was pruned."""
    state, described = read_tensors(path, "sparse")
    for name, description in described.items():
        mask = _unpack_bits(name, state.pop(f"{name}.bitmask", None), description.shape)
        values = state.pop(f"{name}.values", None)
        kept = int(mask.sum())
        if values is None or values.shape != (kept,) or name_dtype(values) != description.dtype:
            raise CheckpointError(
                f"{name}: {kept} bits are set for {description.dtype}, but there are "
                f"{_describe_tensor(values)} values"
            )
        dense = torch.zeros(description.shape, dtype=values.dtype)
        state[name] = dense.masked_scatter_(mask, values)
    return state


def check_pruned(name: str, tensor: Tensor, mask: Tensor) -> None:
    """Raise `CheckpointError` where a weight outside its mask is not zero."""
    if bool(tensor.detach().cpu()[~mask.cpu()].count_nonzero()):
        raise CheckpointError(f"{name}: a pruned weight is not zero")


def write_dense(path: Path, state: Mapping[str, Tensor], **info: Any) -> None:
    """Write a plain state dict with its zeros; it loads anywhere."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    write_tensors(path, tensors, "dense", described={}, info=info)


def write_masks(path: Path, masks: Masks, **info: Any) -> None:
    """Write the bitmasks alone."""
    shapes = {name: {"shape": list(mask.shape)} for name, mask in masks.items()}
    bits = {f"{name}.bitmask": _pack_bits(mask.cpu()) for name, mask in masks.items()}
    write_tensors(path, bits, "masks", described=shapes, info=info)


def read_masks(path: Path) -> Masks:
    """The masks of a `masks` or `sparse` file."""
    tensors, described = read_tensors(path, None)
    return {
        name: _unpack_bits(name, tensors.get(f"{name}.bitmask"), description.shape)
        for name, description in described.items()
    }


def write_pth(path: Path, state: Mapping[str, Tensor], **info: Any) -> None:
    """Write a plain state dict with its zeros as `torch.save` does, for `torch.load` with
    `weights_only=True`; the versions of the modules go with it, `info` has no place in it.

    The file is whole or absent, and equal state dicts make equal files.
    """
    tensors: OrderedDict[str, Tensor] = OrderedDict()
    for name, tensor in state.items():
        # A copy has a storage of its own: of a part of a larger tensor, the rest stays out.
        tensors[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    if hasattr(state, "_metadata"):
        tensors._metadata = state._metadata  # type: ignore[attr-defined]
    with write_aside(path) as aside, aside.open("wb") as file:
        torch.save(tensors, file)


WRITERS: dict[str, Callable[..., None]] = {
    "sparse": write_sparse,
    "dense": lambda path, state, masks, **info: write_dense(path, state, **info),
    "masks": lambda path, state, masks, **info: write_masks(path, masks, **info),
}
"""The writer of each format by its name; each is called with path, state, masks and `info`."""


def save_durably(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write safetensors aside, flush to disk, rename: the file is whole or absent.

    Tied tensors are written once for each name. Raises `OSError` for a disk that is full.
    """
    with write_aside(path) as aside:
        try:
            save_file(_separate_tied(tensors), aside, metadata=metadata)
        except SafetensorError as error:
            for number in (errno.ENOSPC, errno.EDQUOT):
                if f"os error {number})" in str(error):
                    raise OSError(number, os.strerror(number), str(path)) from None
            raise


@contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to: on leaving, what was written is flushed to disk and
    renamed, so that the file is whole or absent; where writing fails, nothing is left.
    """
    aside = path.with_name(f".{path.name}.part")
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _separate_tied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, copied where an earlier one has the same memory: safetensors refuses those."""
    first_names: dict[int, str] = {}
    separate: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        first_name = first_names.setdefault(tensor.data_ptr(), name)
        separate[name] = tensor if first_name == name else tensor.clone()
    return separate


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    format: str,
    *,
    described: dict[str, Any],
    info: dict[str, Any],
) -> None:
    """Write the tensors with one metadata entry: the format, the pruned tensors and `info`."""
    save_durably(tensors, path, _describe_file(format, described, info))


def _describe_file(
    format: str, described: Mapping[str, Any], info: Mapping[str, Any]
) -> dict[str, str]:
    """The metadata of a file: one entry."""
    meta = {"format": format, "version": VERSION, "tensors": described, **info}
    return {"secateur": json.dumps(meta, sort_keys=True)}


class DescribedTensor(BaseModel):
    """A pruned tensor as the metadata describes it."""

    shape: tuple[NonNegativeInt, ...]
    dtype: str | None = None


class _Meta(BaseModel):
    """The metadata entry `secateur`."""

    format: str
    version: int
    tensors: dict[str, DescribedTensor]


def read_tensors(
    path: Path, format: str | None
) -> tuple[dict[str, Tensor], dict[str, DescribedTensor]]:
    """The tensors of a file of the `format` (None: of any), and the descriptions of the pruned."""
    try:
        with safe_open(path, framework="pt") as file:
            meta = _Meta.model_validate_json((file.metadata() or {})["secateur"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValidationError, KeyError, OSError) as error:
        raise CheckpointError(f"{path.name}: not a checkpoint of this service ({error})") from None
    if meta.format != (format or meta.format) or meta.version != VERSION:
        raise CheckpointError(
            f"{path.name}: format {meta.format} {meta.version}, expected {format} {VERSION}"
        )
    return tensors, meta.tensors


def _describe_tensors(state: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Any]:
    return {
        name: {"shape": list(state[name].shape), "dtype": name_dtype(state[name])} for name in names
    }


def _describe_tensor(tensor: Tensor | None) -> str:
    """The type and shape of a tensor for an error message, `no` for one that is missing."""
    return "no" if tensor is None else f"{name_dtype(tensor)} {tuple(tensor.shape)}"


def name_dtype(tensor: Tensor) -> str:
    """The name of a tensor's type in the metadata: `float32`."""
    return str(tensor.dtype).removeprefix("torch.")


def _pack_bits(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(mask.numpy().reshape(-1), bitorder="big"))


def _unpack_bits(name: str, bits: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """The mask of the tensor `name` from its bits; `CheckpointError` for bits of another shape."""
    count = math.prod(shape)
    if bits is None or bits.dtype != torch.uint8 or bits.shape != ((count + 7) // 8,):
        raise CheckpointError(f"{name}: {_describe_tensor(bits)} bitmask for {count} weights")
    mask = np.unpackbits(bits.numpy(), bitorder="big").astype(bool)
    if mask[count:].any():
        raise CheckpointError(f"{name}: bits are set beyond the last of {count} weights")
    return torch.from_numpy(mask[:count]).reshape(shape)
