"""Uploads of networks that have lost channels: a state dict and its `arch.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pruning.channels.compaction import build_cut, read_arch
from pruning.errors import CheckpointError, ParameterError
from pruning.networks.loading import expand_architecture, resolve
from pruning.networks.state_dicts import FittedState, fit_state
from pruning.types import Architecture

POINTER = "/arch"


@dataclass(frozen=True, kw_only=True)
class CutWeights:
    """The weights of a network that has lost channels, under its own names."""

    name: str
    """The name of the architecture that it was cut out of."""
    architecture: Architecture
    modules: dict[str, Any]
    """The widths of its modules; see `pruning.channels.compaction.rebuild_`."""
    network: nn.Module
    """The network with fresh weights."""
    fitted: FittedState


def find_cut_weights(
    arch: str,
    name: str | None,
    kwargs: Mapping[str, Any],
    states: Mapping[str, Mapping[str, Tensor]],
) -> CutWeights:
    """The network of an `arch.json`, given as text, with the weights of a file that fit it.

    `name` and `kwargs` are what else is said of its architecture. Raises `CheckpointError` for a
    text that describes no network and `ParameterError` where it says otherwise than they.
    """
    try:
        own_name, own_kwargs, modules = read_arch(arch)
    except CheckpointError as error:
        raise CheckpointError(f"arch {error.message}", pointer=POINTER) from None
    own = expand_architecture(own_name, own_kwargs)
    given_name, given = (
        (own[0], dict(kwargs)) if name is None else expand_architecture(name, kwargs)
    )
    if given_name != own[0] or any(own[1].get(key) != value for key, value in given.items()):
        raise ParameterError(
            f"arch describes {own_name} with {own_kwargs}, and architecture or kwargs say "
            "otherwise; leave them out",
            pointer=POINTER,
        )
    architecture = resolve(*own)
    try:
        # Not on the meta device: what a shortcut without weights reads is data.
        network = build_cut(architecture, modules)
    except CheckpointError as error:
        raise CheckpointError(f"arch: {error.message}", pointer=POINTER) from None
    return CutWeights(
        name=own[0],
        architecture=architecture,
        modules=modules,
        network=network,
        fitted=fit_state(network.state_dict(), states),
    )
