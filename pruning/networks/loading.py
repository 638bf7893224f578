"""Networks by architecture name, and state dicts that must fit them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pruning.architectures import architectures
from pruning.architectures._attention import open_attention_
from pruning.errors import (
    CheckpointError,
    DataError,
    ModelError,
    ParameterError,
    UnsafeFormatError,
)
from pruning.storage.checkpoints import read_sparse
from pruning.storage.compressed import read_compressed
from pruning.storage.file_info import read_file_info
from pruning.storage.signatures import is_pickle, is_safetensors, is_xz
from pruning.types import Architecture, Task

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def expand_architecture(name: str, kwargs: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The registered architecture and its parameters; a name that one of them has for `name` stands
    for both.

    Raises `ParameterError` where `kwargs` name another network.

    >>> expand_architecture("resnet18", {"classes": 3})
    ('torchvision', {'name': 'resnet18', 'classes': 3})
    """
    if name in architectures.names():
        return name, dict(kwargs)
    for entry in architectures.catalogue():
        names = entry["params"].get("properties", {}).get("name", {}).get("enum", ())
        if name in names:
            if kwargs.get("name", name) != name:
                raise ParameterError(
                    f"the architecture is {name!r}, and the kwargs name {kwargs['name']!r}",
                    pointer="name",
                )
            return entry["name"], {"name": name, **kwargs}
    return name, dict(kwargs)


def resolve(
    architecture: str,
    kwargs: Mapping[str, Any],
    *,
    shape: Sequence[int] | None = None,
    classes: int | None = None,
) -> Architecture:
    """The architecture with its parameters, those that follow from the dataset filled in.

    `kwargs` go first; `shape` is (channels, height, width) of the images. The name of a network of
    torchvision stands for it. Raises `UnknownNameError`, `ParameterError`.
    """
    architecture, kwargs = expand_architecture(architecture, kwargs)
    fields = {field.name for field in dataclasses.fields(architectures.get(architecture))}  # type: ignore[arg-type]
    inferred: dict[str, Any] = {}
    if shape is not None:
        inferred["channels"] = shape[0]
        if {"height", "width"} <= fields:
            inferred |= {"height": shape[1], "width": shape[2]}
    if classes is not None:
        inferred["classes"] = classes
    suit_images = getattr(architectures.get(architecture), "suit_images", None)
    if shape is not None and suit_images is not None:
        inferred |= suit_images(kwargs, shape)
    known = {name: value for name, value in inferred.items() if name in fields}
    return architectures.create(architecture, known | dict(kwargs))


def build_network(architecture: Architecture) -> nn.Module:
    """The network with fresh weights, whose attention calls its projections and its heads."""
    return open_attention_(architecture.build())


def build_outline(architecture: Architecture) -> nn.Module:
    """The network with shapes but without data, so that it may be of any size."""
    with torch.device("meta"):
        return build_network(architecture)


def read_parameters(architecture: Architecture) -> dict[str, Any]:
    """The architecture's parameters with every default written in, as JSON would carry them."""
    parameters = {}
    for field in dataclasses.fields(architecture):  # type: ignore[arg-type]
        value = getattr(architecture, field.name)
        parameters[field.name] = list(value) if isinstance(value, tuple) else value
    return parameters


def check_fits(
    architecture: Architecture,
    shape: Sequence[int],
    classes: Sequence[str],
    task: Task = "classification",
) -> None:
    """Raise `DataError` when the network does not fit the images or the classes of a dataset."""
    network_task: Task = getattr(architecture, "task", "classification")
    if network_task != task:
        labels = (
            "its masks hold the class of every pixel"
            if task == "segmentation"
            else "they hold one class for each image; send images/ and masks/"
        )
        raise DataError(
            f"the network is made for {network_task}, the dataset's labels are for {task}: "
            f"{labels}",
            pointer="/dataset",
        )
    axes = ("channels", "rows", "columns")
    for axis, wanted, size in zip(axes, architecture.input_shape, shape, strict=True):
        if wanted is not None and wanted != size:
            raise DataError(
                f"the network takes images of {wanted} {axis}, the dataset's have {size}",
                pointer="/dataset",
            )
    smallest = getattr(architecture, "smallest", 1)
    if min(shape[1:]) < smallest:
        raise DataError(
            f"the network takes images of at least {smallest} x {smallest} pixels, the dataset's "
            f"have {shape[1]} x {shape[2]}",
            pointer="/dataset",
        )
    if architecture.outputs != len(classes):
        raise DataError(
            f"the network distinguishes {architecture.outputs} classes, the dataset has "
            f"{len(classes)}",
            pointer="/dataset",
        )


def load_model(
    architecture: str, state: Mapping[str, Tensor] | Path | str | None = None, **kwargs: Any
) -> nn.Module:
    """A registered network in eval mode, with the weights of a state dict or of a safetensors file
    at a path.

    Raises `UnknownNameError`, `ParameterError`, and `ModelError` when names, shapes or types do not
    fit.

    >>> net = load_model("mlp", hidden=[4], channels=1, height=2, width=2, classes=2)
    >>> same = load_model(
    ...     "mlp", net.state_dict(), hidden=[4], channels=1, height=2, width=2, classes=2
    ... )
    >>> bool((net.fc1.weight == same.fc1.weight).all())
    True
    """
    model = build_network(resolve(architecture, kwargs))
    if state is not None:
        load_state_(model, read_state(Path(state)) if isinstance(state, Path | str) else state)
    return model.eval()


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, also of a sparse or compressed checkpoint of this service;
    any other file is refused, above all a pickle.
    """
    with path.open("rb") as file:
        head = file.read(9)
    if is_xz(head):
        try:
            return read_compressed(path)
        except CheckpointError as error:
            raise ModelError(error.message) from None
    if not is_safetensors(head) and (is_pickle(head) or head.startswith(b"PK")):
        raise UnsafeFormatError(
            "this is a pickle or a zip (.pt, .pth); save the state dict with "
            "safetensors.torch.save_file"
        )
    if not is_safetensors(head):
        raise ModelError("not a safetensors file: no valid header")
    try:
        if read_file_info(path).format == "sparse":
            return read_sparse(path)
        return load_file(path)
    except (SafetensorError, CheckpointError, ValueError, OSError) as error:
        raise ModelError(f"not a readable safetensors file: {error}") from None


def load_state_(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state dict in place after `check_state`; float16 and bfloat16 become float32."""
    check_state(model.state_dict(), state)
    load_weights_(model, state)


def load_weights_(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load weights in place that are known to fit; what they lack stays as it is.

    PyTorch keeps the versions of modules beside a state dict (`_metadata`), safetensors do not: a
    network of this version of the code is of these versions, without which some (MNASNet) refuse to
    load.
    """
    state = model.state_dict()
    state.update(weights.items())  # a stored part then opens its file once, not for each tensor
    model.load_state_dict(state)


def check_state(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Raise `ModelError` unless a state dict has every tensor, each of the right shape and type.

    Floats must be finite, and BatchNorm's variances not negative.
    `wanted` is the architecture's own state dict, which may be on the `meta` device: nothing of its
    size is allocated. BatchNorm's `num_batches_tracked` may be missing.
    """
    missing = sorted(set(wanted) - _find_optional(wanted) - set(state))
    unexpected = sorted(set(state) - set(wanted))
    parts = []
    for label, names in (("missing", missing), ("unexpected", unexpected)):
        if names:
            ellipsis = " ..." if len(names) > 5 else ""
            parts.append(f"{label} {', '.join(names[:5])}{ellipsis}")
    if parts:
        raise ModelError(f"the state dict does not fit the architecture: {'; '.join(parts)}")
    for name, tensor in state.items():
        _check_tensor(name, wanted[name], tensor)


def _check_tensor(name: str, wanted: Tensor, tensor: Tensor) -> None:
    """Raise `ModelError` unless a tensor can take the place of the architecture's own."""
    if tensor.shape != wanted.shape:
        raise ModelError(
            f"{name} has shape {tuple(tensor.shape)}, the architecture needs {tuple(wanted.shape)}"
        )
    if wanted.is_floating_point():
        if tensor.dtype not in FLOATS:
            raise ModelError(
                f"{name} is {tensor.dtype}; accepted are float32, float16 and bfloat16"
            )
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{name} holds NaN or infinity")
        if name.endswith("running_var") and (tensor < 0).any():
            raise ModelError(
                f"{name} holds {float(tensor.min()):g}: a variance is not negative, and its root "
                "is not a number"
            )
    elif tensor.dtype != wanted.dtype:
        raise ModelError(f"{name} is {tensor.dtype}, the architecture needs {wanted.dtype}")


def _find_optional(wanted: Mapping[str, Tensor]) -> set[str]:
    """The names of the tensors that may be missing from a state dict."""
    return {name for name in wanted if name.endswith("num_batches_tracked")}
