"""Networks without the channels that pruning removed: physically smaller, the same function."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError
from torch import Tensor, nn

from pruning.architectures._channel_map import ChannelMap
from pruning.channels.graph import ChannelGraph
from pruning.channels.slicing import count_channels, resize_, slice_channels
from pruning.errors import CheckpointError
from pruning.masks import select_weight_masks
from pruning.networks.loading import load_state_, read_state, resolve
from pruning.types import Masks, Shape


def build_compact(model: nn.Module, masks: Masks, shape: Shape) -> nn.Module:
    """A smaller copy of the network: without the channels of which everything is masked, the same
    function.

    `shape` (C, H, W) is that of the images. Raises `StructureError`.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> first, last = torch.tensor([1, 0, 1]).bool(), torch.tensor([[1, 0, 1], [1, 0, 1]]).bool()
    >>> build_compact(
    ...     net,
    ...     {"1.weight": first[:, None].expand(3, 4), "1.bias": first, "3.weight": last},
    ...     (1, 2, 2),
    ... )
    Sequential(
      (0): Flatten(start_dim=1, end_dim=-1)
      (1): Linear(in_features=4, out_features=2, bias=True)
      (2): ReLU()
      (3): Linear(in_features=2, out_features=2, bias=True)
    )
    """
    graph = ChannelGraph.of(model, shape, select_weight_masks(masks))
    return graph.shrink(model, graph.kept(model, masks))


def expand_(model: nn.Module, masks: Masks, small: nn.Module, shape: Shape) -> None:
    """Write what the smaller network learnt back into the full one, in place.

    Parameters go to their places, with zeros elsewhere; of BatchNorm's statistics those of the
    remaining channels are written. `masks` are those that `small` was made with.
    """
    graph = ChannelGraph.of(model, shape, select_weight_masks(masks))
    keep = graph.kept(model, masks)
    with torch.no_grad():
        for name, module in model.named_modules():
            source = small.get_submodule(name)
            parts = (
                slice_channels(module, *graph.kept_of(name, keep)) if name in graph.inputs else {}
            )
            for tensor, value in _own(module).items():
                if tensor in parts and isinstance(value, nn.Parameter):
                    value.zero_()
                value[parts.get(tensor, (...,))] = getattr(source, tensor).to(value.device)


def _own(module: nn.Module) -> dict[str, Tensor]:
    """The tensors by which a module, without its submodules, enters the state dict."""
    buffers = {
        name: value
        for name, value in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set
    }
    return dict(module.named_parameters(recurse=False)) | buffers


class _Described(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Layer(_Described):
    """A Linear, Conv2d or BatchNorm."""

    type: Literal["layer"] = "layer"
    inputs: PositiveInt
    outputs: PositiveInt
    groups: PositiveInt = 1


class _Map(_Described):
    """A shortcut without weights."""

    type: Literal["map"] = "map"
    inputs: PositiveInt
    sources: Annotated[list[Annotated[int, Field(ge=-1)]], Field(min_length=1)]


class _Document(_Described):
    """The file `arch.json`."""

    format: Literal["arch"]
    version: Literal[1]
    architecture: str
    kwargs: dict[str, Any]
    modules: dict[str, _Layer | _Map]


_MODULES = TypeAdapter(dict[str, _Layer | _Map])


def describe_widths(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The widths of every Linear, Conv2d, BatchNorm and parameter-free shortcut, by module name, as
    JSON.

    >>> describe_widths(nn.Sequential(nn.Linear(3, 2), nn.ReLU()))
    {'0': {'type': 'layer', 'inputs': 3, 'outputs': 2, 'groups': 1}}
    """
    return {
        name: _describe(module).model_dump()
        for name, module in model.named_modules()
        if count_channels(module)
    }


def _describe(module: nn.Module) -> _Layer | _Map:
    if isinstance(module, ChannelMap):
        return _Map(inputs=module.channels_in, sources=module.sources.tolist())
    width = count_channels(module)
    assert width is not None
    return _Layer(
        inputs=width[0],
        outputs=width[1],
        groups=module.groups if isinstance(module, nn.Conv2d) else 1,
    )


def rebuild_(network: nn.Module, description: Mapping[str, Any]) -> nn.Module:
    """Cut a freshly built network down to the widths that `describe_widths` told, in place, so that
    a state dict loads.

    The weights are zero where a layer was cut. Raises `CheckpointError` for a description of
    another network.
    """
    try:
        described = _MODULES.validate_python(dict(description))
    except ValidationError as error:
        raise CheckpointError(
            f"the description of the network is not valid: {_first(error)}"
        ) from None
    modules = {name: module for name, module in network.named_modules() if count_channels(module)}
    if set(described) != set(modules):
        raise CheckpointError(
            f"the description is of another network: it lists {len(described)} layers, the "
            "architecture "
            f"has {len(modules)}; {', '.join(sorted(set(described) ^ set(modules))[:5])}"
        )
    for name, module in modules.items():
        _cut_(name, module, described[name])
    return network


def _cut_(name: str, module: nn.Module, to: _Layer | _Map) -> None:
    full = _describe(module)
    if to == full:
        return
    fits = type(to) is type(full) and to.inputs <= full.inputs
    if isinstance(to, _Map) and isinstance(full, _Map) and fits and isinstance(module, ChannelMap):
        fits = len(to.sources) <= len(full.sources) and max(to.sources) < to.inputs
        if fits:
            module.route_(to.inputs, to.sources)
    elif isinstance(to, _Layer) and isinstance(full, _Layer) and fits:
        fits = (
            to.outputs <= full.outputs
            and to.groups <= full.groups
            and to.inputs % to.groups == to.outputs % to.groups == 0
            and (isinstance(module, nn.Linear | nn.Conv2d) or to.inputs == to.outputs)
        )
        if fits:
            resize_(module, to.inputs, to.outputs, to.groups)
    if not fits:
        raise CheckpointError(f"{name}: {to!r} is no part of {full!r}")


def write_arch(path: Path, model: nn.Module, architecture: str, kwargs: Mapping[str, Any]) -> None:
    """Write `arch.json`: the architecture and the widths of this smaller network of its family;
    whole or absent.
    """
    document = _Document(
        format="arch",
        version=1,
        architecture=architecture,
        kwargs=dict(kwargs),
        modules=_MODULES.validate_python(describe_widths(model)),
    )
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(document.model_dump_json(indent=1))
    aside.replace(path)


def load_compact(arch: Path, state: Path | Mapping[str, Tensor]) -> nn.Module:
    """The smaller network of an `arch.json` with the weights of its state dict or safetensors file;
    in eval mode.

    Raises `CheckpointError` for a file that is no such description, `ModelError` for weights that
    do not fit it.
    """
    try:
        document = _Document.model_validate(json.loads(arch.read_bytes()))
    except ValidationError as error:
        raise CheckpointError(f"{arch.name} does not describe a network: {_first(error)}") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{arch.name} is no JSON") from None
    described = document.model_dump()["modules"]
    model = rebuild_(resolve(document.architecture, document.kwargs).build(), described)
    load_state_(model, read_state(state) if isinstance(state, Path) else state)
    return model.eval()


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
