"""State dicts as people have them: found in the file of a training, renamed to fit a network.

A training saves its weights beside other things (`state_dict`, `model`, `model_ema`), under names
that begin with what wrapped the network (`module.`, `_orig_mod.`, `model.`), as `weight_orig` and
`weight_mask` while torch.nn.utils.prune is at work, or under names of earlier releases. What is
done to a state dict is told in notes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pruning.errors import CheckpointError, ModelError, UnsafeFormatError
from pruning.networks.renaming import fold_reparametrised, rename_to_fit
from pruning.storage.checkpoints import read_sparse, save_durably
from pruning.storage.compressed import MOST_BYTES, read_compressed
from pruning.storage.file_info import read_file_info
from pruning.storage.pytorch_files import (
    ADVICE,
    Unread,
    describe_foreign,
    is_pytorch,
    read_pytorch,
)
from pruning.storage.signatures import is_safetensors, is_xz

ENTRIES = ("state_dict", "model_state_dict", "model", "net", "network", "module", "params")
"""The usual places of the trained weights in the file of a training, the first goes first."""
AVERAGED = ("ema", "average", "swa")
"""Parts of the names of places that hold averaged weights; they go last."""
OTHERS = ("optim", "sched", "scaler", "loss", "criterion", "metric")
"""Beginnings of the names of places that hold something other than weights."""
DEEPEST = 3
"""The number of containers that may lie around a state dict."""
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
"""The types of floats that a stored state dict may have."""
SHOWN = 5
"""The number of names that a message lists."""


@dataclass(frozen=True)
class FittedState:
    """A state dict under the names of a network, and what was done to it."""

    state: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    """Sentences for whoever sent the file; empty where the file is taken as it is."""
    differences: Differences = field(default_factory=lambda: Differences())


@dataclass(frozen=True)
class Differences:
    """The names in which a state dict differs from that of a network."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    other_shape: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """The number of names."""
        return len(self.missing) + len(self.unexpected) + len(self.other_shape)


def read_weights(path: Path, most_bytes: int | None = None) -> dict[str, dict[str, Tensor]]:
    """The state dicts in a file, by their places; the place of one that is alone is empty.

    Reads safetensors, sparse and compressed checkpoints of this service and files of `torch.save`.
    `most_bytes` limits what a compressed one holds. Raises `UnsafeFormatError`, `ModelError`.
    """
    if is_pytorch(path):
        return find_state_dicts(read_pytorch(path))
    with path.open("rb") as file:
        head = file.read(9)
    if is_xz(head):
        return {"": _read_compressed(path, most_bytes)}
    if not is_safetensors(head):
        foreign = describe_foreign(path)
        detail = "" if foreign is None else f"; this is {foreign}"
        raise ModelError(f"not a safetensors file: no valid header{detail}")
    try:
        if read_file_info(path).format == "sparse":
            return {"": read_sparse(path)}
        return {"": load_file(path)}
    except (SafetensorError, CheckpointError, ValueError, OSError) as error:
        raise ModelError(f"not a readable safetensors file: {error}") from None


def _read_compressed(path: Path, most_bytes: int | None) -> dict[str, Tensor]:
    """The tensors of a compressed checkpoint; other xz files are refused."""
    try:
        return read_compressed(path, MOST_BYTES if most_bytes is None else most_bytes)
    except CheckpointError as error:
        raise ModelError(f"{error}; unpack other files of xz before they are sent") from None


def find_state_dicts(content: Any) -> dict[str, dict[str, Tensor]]:
    """The state dicts in what a file of `torch.save` holds, by their places, the likeliest first.

    >>> weights = {"fc.weight": torch.zeros(1)}
    >>> list(find_state_dicts({"epoch": 3, "model_ema": weights, "state_dict": weights}))
    ['state_dict', 'model_ema']
    """
    if isinstance(content, Unread):
        raise UnsafeFormatError(
            f"the file holds a whole Python object ({content.of}), not a state dict; {ADVICE}"
        )
    if not isinstance(content, Mapping):
        raise ModelError(f"the file holds a {type(content).__name__}, not a state dict; {ADVICE}")
    places = dict(_walk("", content, 0))
    if not places:
        objects = [f"{name!r} is a {item.of}" for name, item in _list_unread(content)]
        detail = f": {'; '.join(objects[:SHOWN])}" if objects else ""
        error = UnsafeFormatError if objects else ModelError
        raise error(f"the file holds no state dict{detail}; {ADVICE}")
    order = sorted(places, key=_rank_place)
    return {place: _keep_tensors(places[place]) for place in order}


def _walk(place: str, content: Mapping[Any, Any], depth: int) -> Iterator[tuple[str, Any]]:
    """The mappings that hold tensors by name, with their places."""
    tensors = [name for name, value in content.items() if isinstance(value, Tensor)]
    if tensors and all(isinstance(name, str) for name in content):
        yield place, content
        return
    for name, value in content.items():
        if depth == DEEPEST or not (isinstance(name, str) and isinstance(value, Mapping)):
            continue
        if not name.lower().startswith(OTHERS):
            yield from _walk(f"{place}.{name}" if place else name, value, depth + 1)


def _list_unread(content: Mapping[Any, Any]) -> list[tuple[str, Unread]]:
    return [(str(name), item) for name, item in content.items() if isinstance(item, Unread)]


def _rank_place(place: str) -> tuple[bool, int]:
    """The rank of a place: averaged weights go last, the usual places in their order."""
    names = place.lower().split(".")
    is_averaged = any(part in name for name in names for part in AVERAGED)
    ranks = [ENTRIES.index(name) for name in names if name in ENTRIES]
    return is_averaged, min(ranks, default=len(ENTRIES))


def _keep_tensors(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a state dict, dense and in memory of their own size.

    Raises `ModelError` for quantised ones, and for those that claim more numbers than the file
    holds.
    """
    state = {}
    for name, value in content.items():
        if not isinstance(value, Tensor):
            continue
        if value.is_quantized:
            raise ModelError(f"{name} is quantised; send the weights from before quantisation")
        tensor = value.detach()
        tensor = tensor.to_dense() if tensor.layout != torch.strided else tensor
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ModelError(
                f"{name} has the shape {tuple(tensor.shape)}, and the file holds fewer numbers; "
                "save a copy of it (tensor.clone())"
            )
        state[name] = tensor
    return state


def fit_state(
    wanted: Mapping[str, Tensor], states: Mapping[str, Mapping[str, Tensor]]
) -> FittedState:
    """The state dict of a file that fits a network, under the network's names.

    `wanted` is the network's own state dict, which may be on the `meta` device; `states` are those
    of the file, the likeliest first. The first that fits is taken, else the nearest.
    """
    fitted = {place: _fit_one(wanted, state) for place, state in states.items()}
    taken = min(fitted, key=lambda place: fitted[place].differences.count)
    result = fitted[taken]
    others = [repr(place) for place in states if place != taken]
    notes = []
    if taken:
        also = f"; it also holds {', '.join(others)}" if others else ""
        notes.append(f"the weights were taken from {taken!r} of the file{also}")
    return FittedState(result.state, (*notes, *result.notes), result.differences)


def _fit_one(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> FittedState:
    folded, notes = fold_reparametrised(state)
    renamed, more = rename_to_fit(set(wanted), folded)
    cast, casts = _cast(wanted, renamed)
    return FittedState(cast, (*notes, *more, *casts), compare_states(wanted, cast))


def _cast(
    wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors in types that are stored: floats of at most 32 bits, counters as whole numbers
    without a shape.
    """
    cast: dict[str, Tensor] = {}
    types: dict[str, int] = {}
    for name, tensor in state.items():
        cast[name] = tensor
        if name not in wanted:
            continue
        if name.endswith("num_batches_tracked") and tensor.numel() == 1:
            if tensor.dtype != torch.int64 or tensor.dim():
                cast[name] = tensor.reshape(()).to(torch.int64)
        elif tensor.is_floating_point() and tensor.dtype not in FLOATS:
            type_name = str(tensor.dtype).removeprefix("torch.")
            types[type_name] = types.get(type_name, 0) + 1
            cast[name] = tensor.to(torch.float32)
    return cast, [
        f"{type_name} became float32 in {count} tensor{'s' if count > 1 else ''}"
        for type_name, count in types.items()
    ]


def is_stored(
    path: Path, state: Mapping[str, Tensor], states: Mapping[str, Mapping[str, Tensor]]
) -> bool:
    """Whether a file holds a state dict as it is, so that it can be kept; `states` are its own."""
    own = states.get("", {})
    same = state.keys() == own.keys() and all(state[name] is own[name] for name in state)
    with path.open("rb") as file:
        return same and is_safetensors(file.read(9))


def write_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write a state dict as safetensors; tensors that share memory are written for each name."""
    separate = {
        name: tensor.contiguous()
        if tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        else tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    save_durably(separate, path, {})


def compare_states(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Differences:
    """The differences of a state dict from a network's own, whose counters may be missing."""
    optional = {name for name in wanted if name.endswith("num_batches_tracked")}
    return Differences(
        missing=tuple(name for name in wanted if name not in state and name not in optional),
        unexpected=tuple(name for name in state if name not in wanted),
        other_shape=tuple(
            name
            for name, tensor in state.items()
            if name in wanted and tensor.shape != wanted[name].shape
        ),
    )
