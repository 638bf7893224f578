"""Sparse checkpoints: safetensors that hold a bitmask and the remaining values of every pruned
tensor.

`<name>.bitmask` (uint8): the mask over the flattened tensor in row-major order, eight to a byte,
most significant bit first. `<name>.values` (1-D): the remaining weights in that order. Other
tensors as they are. The metadata entry `secateur` is JSON: `{"format": "sparse", "version": 1,
"tensors": {name: {"shape": [...], "dtype": "float32"}}, ...}`. One metadata entry only: the order
of several is not defined, and equal networks shall give equal files.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable, Mapping
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
        if bool(tensor[~mask].count_nonzero()):
            raise CheckpointError(f"{name}: a pruned weight is not zero")
        tensors[f"{name}.bitmask"] = _pack(mask)
        tensors[f"{name}.values"] = tensor[mask]
    _write(path, tensors, "sparse", _describe(state, masks), info)


def read_sparse(path: Path) -> dict[str, Tensor]:
    """The dense state dict of a sparse checkpoint, zeros where it was pruned; exact."""
    state, described = _read(path, "sparse")
    for name, one in described.items():
        mask, values = (
            _unpack(name, state.pop(f"{name}.bitmask", None), one.shape),
            state.pop(f"{name}.values", None),
        )
        if values is None or values.shape != (int(mask.sum()),) or _dtype(values) != one.dtype:
            found = "no" if values is None else f"{_dtype(values)} {tuple(values.shape)}"
            raise CheckpointError(
                f"{name}: {int(mask.sum())} bits are set for {one.dtype}, but there are {found} "
                "values"
            )
        state[name] = torch.zeros(one.shape, dtype=values.dtype).masked_scatter_(mask, values)
    return state


def write_dense(path: Path, state: Mapping[str, Tensor], **info: Any) -> None:
    """Write a plain state dict with its zeros; it loads anywhere."""
    _write(
        path,
        {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()},
        "dense",
        {},
        info,
    )


def write_masks(path: Path, masks: Masks, **info: Any) -> None:
    """Write the bitmasks alone."""
    shapes = {name: {"shape": list(mask.shape)} for name, mask in masks.items()}
    _write(
        path,
        {f"{name}.bitmask": _pack(mask.cpu()) for name, mask in masks.items()},
        "masks",
        shapes,
        info,
    )


def read_masks(path: Path) -> Masks:
    """The masks of a `masks` or `sparse` file."""
    tensors, described = _read(path, None)
    return {
        name: _unpack(name, tensors.get(f"{name}.bitmask"), one.shape)
        for name, one in described.items()
    }


WRITERS: dict[str, Callable[..., None]] = {
    "sparse": write_sparse,
    "dense": lambda path, state, masks, **info: write_dense(path, state, **info),
    "masks": lambda path, state, masks, **info: write_masks(path, masks, **info),
}


def save_durably(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write safetensors aside, flush to disk, rename: the file is whole or absent. Tied tensors are
    written each.
    """
    aside = path.with_name(f".{path.name}.part")
    seen: dict[int, str] = {}
    try:
        save_file(
            {
                name: tensor if seen.setdefault(tensor.data_ptr(), name) == name else tensor.clone()
                for name, tensor in tensors.items()
            },
            aside,
            metadata=metadata,
        )
    except SafetensorError as error:
        aside.unlink(missing_ok=True)
        number = next(
            (n for n in (errno.ENOSPC, errno.EDQUOT) if f"os error {n})" in str(error)), None
        )
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from None
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    aside.replace(path)


def _write(
    path: Path,
    tensors: Mapping[str, Tensor],
    format: str,
    described: dict[str, Any],
    info: dict[str, Any],
) -> None:
    meta = {"format": format, "version": VERSION, "tensors": described, **info}
    save_durably(tensors, path, {"secateur": json.dumps(meta, sort_keys=True)})


class _Described(BaseModel):
    shape: tuple[NonNegativeInt, ...]
    dtype: str | None = None


class _Meta(BaseModel):
    format: str
    version: int
    tensors: dict[str, _Described]


def _read(path: Path, format: str | None) -> tuple[dict[str, Tensor], dict[str, _Described]]:
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


def _describe(state: Mapping[str, Tensor], masks: Masks) -> dict[str, Any]:
    return {
        name: {"shape": list(state[name].shape), "dtype": _dtype(state[name])} for name in masks
    }


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _pack(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(mask.numpy().reshape(-1), bitorder="big"))


def _unpack(name: str, bits: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    count = math.prod(shape)
    if bits is None or bits.dtype != torch.uint8 or bits.shape != ((count + 7) // 8,):
        found = "no" if bits is None else f"{_dtype(bits)} {tuple(bits.shape)}"
        raise CheckpointError(f"{name}: {found} bitmask for {count} weights")
    mask = np.unpackbits(bits.numpy(), bitorder="big").astype(bool)
    if mask[count:].any():
        raise CheckpointError(f"{name}: bits are set beyond the last of {count} weights")
    return torch.from_numpy(mask[:count]).reshape(shape)
