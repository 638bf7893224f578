"""Networks without the channels that pruning removed: physically smaller, the same function."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from pruning.architectures._attention import PackedProjection
from pruning.architectures._attention_heads import AttentionHeads
from pruning.architectures._channel_map import ChannelMap
from pruning.channels.graph import ChannelGraph
from pruning.channels.slicing import Slices, count_channels, resize_, slice_channels
from pruning.errors import CheckpointError
from pruning.masks import select_weight_masks
from pruning.networks.layers import name_tensor
from pruning.networks.loading import build_network, load_state_, read_state, resolve
from pruning.schemas.arch_file import (
    ArchFile,
    KeptHeads,
    LayerWidths,
    ModuleWidths,
    ShortcutMap,
)
from pruning.storage.checkpoints import write_aside
from pruning.types import Architecture, Masks, Shape


def build_compact(model: nn.Module, masks: Masks, shape: Shape) -> nn.Module:
    """A smaller copy of the network, of the same function: without the channels that are masked as
    a whole.

    `shape` (C, H, W) is that of the images. Raises `StructureError` for a network that cannot be
    traced for channels.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> kept = torch.tensor([True, False, True])
    >>> masks = {
    ...     "1.weight": kept[:, None].expand(3, 4),
    ...     "1.bias": kept,
    ...     "3.weight": kept.expand(2, 3),
    ... }
    >>> build_compact(net, masks, (1, 2, 2))
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

    Parameters go to their places, with zeros elsewhere; BatchNorm's statistics of removed channels
    stay. `masks` are those that `small` was made with.
    """
    graph = ChannelGraph.of(model, shape, select_weight_masks(masks))
    keep = graph.kept(model, masks)
    slices: Slices = {}
    for name in graph.inputs:
        module = model.get_submodule(name)
        for tensor, index in slice_channels(module, *graph.kept_of(name, keep)).items():
            slices[name_tensor(name, module, tensor)] = index
    learnt = small.state_dict()
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name in slices and name in parameters:
                value.zero_()
            value[slices.get(name, (...,))] = learnt[name].to(value.device)


_MODULES = TypeAdapter(dict[str, ModuleWidths])


def describe_widths(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The widths of all modules with channels (Linear, Conv2d, BatchNorm, weightless shortcuts, and
    attentions without some of their heads), by module name, as JSON.

    >>> describe_widths(nn.Sequential(nn.Linear(3, 2), nn.ReLU()))
    {'0': {'type': 'layer', 'inputs': 3, 'outputs': 2, 'groups': 1}}
    """
    return {
        name: _describe(module).model_dump()
        for name, module in model.named_modules()
        if count_channels(module) and not _is_whole(module)
    }


def _is_whole(module: nn.Module) -> bool:
    """Whether a module is a part of an attention that has all its heads, and needs no entry."""
    if isinstance(module, PackedProjection):
        return module.out_features == 3 * module.in_features
    return isinstance(module, AttentionHeads) and module.is_whole


def _describe(module: nn.Module) -> ModuleWidths:
    """The widths of a module that has channels."""
    if isinstance(module, AttentionHeads):
        return KeptHeads(kept=list(module.kept), total=module.total, size=module.size)
    if isinstance(module, ChannelMap):
        return ShortcutMap(inputs=module.channels_in, sources=module.sources.tolist())
    width = count_channels(module)
    assert width is not None
    return LayerWidths(
        inputs=width[0],
        outputs=width[1],
        groups=module.groups if isinstance(module, nn.Conv2d) else 1,
    )


def rebuild_(network: nn.Module, description: Mapping[str, Any]) -> nn.Module:
    """Cut a freshly built network down to the widths that `describe_widths` returned, in place, so
    that a state dict loads.

    The weights are zero where a layer was cut. Raises `CheckpointError` for a description of
    another network.
    """
    try:
        described = _MODULES.validate_python(dict(description))
    except ValidationError as error:
        raise CheckpointError(
            f"the description of the network is not valid: {_describe_first(error)}"
        ) from None
    modules = {
        name: module
        for name, module in network.named_modules()
        if count_channels(module) and (name in described or not _is_whole(module))
    }
    if set(described) != set(modules):
        differing = sorted(set(described) ^ set(modules))
        raise CheckpointError(
            f"the description is of another network: it lists {len(described)} layers, the "
            f"architecture has {len(modules)}; {', '.join(differing[:5])}"
        )
    for name, module in modules.items():
        _cut_(name, module, described[name])
    return network


def _cut_(name: str, module: nn.Module, target: ModuleWidths) -> None:
    """Cut a module to the widths of a description; `CheckpointError` for one that it has no room
    for.
    """
    full = _describe(module)
    if target == full:
        return
    if (
        isinstance(module, ChannelMap)
        and isinstance(target, ShortcutMap)
        and isinstance(full, ShortcutMap)
    ):
        if _fits_map(target, full):
            module.route_(target.inputs, target.sources)
            return
    elif isinstance(module, AttentionHeads) and isinstance(target, KeptHeads):
        if (target.total, target.size) == (module.total, module.size):
            with suppress(ValueError):
                module.keep_(target.kept)
                return
    elif isinstance(target, LayerWidths) and isinstance(full, LayerWidths):
        summing = isinstance(module, nn.Linear | nn.Conv2d)
        if _fits_layer(target, full) and (summing or target.inputs == target.outputs):
            resize_(module, target.inputs, target.outputs, target.groups)
            return
    raise CheckpointError(f"{name}: {target!r} is not a part of {full!r}")


def _fits_map(target: ShortcutMap, full: ShortcutMap) -> bool:
    return (
        target.inputs <= full.inputs
        and len(target.sources) <= len(full.sources)
        and max(target.sources) < target.inputs
    )


def _fits_layer(target: LayerWidths, full: LayerWidths) -> bool:
    return (
        target.inputs <= full.inputs
        and target.outputs <= full.outputs
        and target.groups <= full.groups
        and target.inputs % target.groups == 0
        and target.outputs % target.groups == 0
    )


def write_arch(path: Path, model: nn.Module, architecture: str, kwargs: Mapping[str, Any]) -> None:
    """Write `arch.json`, whole or not at all: the architecture and widths of a smaller network."""
    document = ArchFile(
        format="arch",
        version=1,
        architecture=architecture,
        kwargs=dict(kwargs),
        modules=_MODULES.validate_python(describe_widths(model)),
    )
    with write_aside(path) as aside:
        aside.write_text(document.model_dump_json(indent=1))


def read_arch(content: bytes | str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The architecture of an `arch.json`, its parameters, and the description of its modules that
    `rebuild_` takes.

    Raises `CheckpointError` for a document that is not such a description.
    """
    try:
        document = ArchFile.model_validate(json.loads(content))
    except ValidationError as error:
        raise CheckpointError(f"does not describe a network: {_describe_first(error)}") from None
    except (ValueError, RecursionError):
        raise CheckpointError("is not JSON") from None
    return document.architecture, document.kwargs, document.model_dump()["modules"]


def build_cut(architecture: Architecture, modules: Mapping[str, Any] | None) -> nn.Module:
    """The network with fresh weights, cut down to the description of its modules where there is
    one; see `rebuild_`.
    """
    network = build_network(architecture)
    return network if modules is None else rebuild_(network, modules)


def load_compact(arch: Path, state: Path | Mapping[str, Tensor]) -> nn.Module:
    """The smaller network of an `arch.json` with the weights of its state dict or safetensors file,
    in eval mode.

    Raises `CheckpointError` for a file that is not such a description, `ModelError` for weights
    that do not fit it.
    """
    try:
        name, kwargs, modules = read_arch(arch.read_bytes())
    except CheckpointError as error:
        raise CheckpointError(f"{arch.name} {error.message}") from None
    model = build_cut(resolve(name, kwargs), modules)
    load_state_(model, read_state(state) if isinstance(state, Path) else state)
    return model.eval()


def _describe_first(error: ValidationError) -> str:
    """The first error of a validation: the field and the message."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
