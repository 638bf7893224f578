"""The backbone of a segmentation network, started from a classifier that was trained before."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pruning.errors import ParameterError
from pruning.types import Architecture

PREFIXES = ("", "features.")
"""The beginnings of the names that a backbone's tensors have in a classifier of torchvision."""
OPTIONAL = ("num_batches_tracked",)
"""The tensors that files may lack."""
FROM_SCRATCH = (
    "the backbone starts from random weights; published networks of this kind start from one that "
    "was trained on ImageNet, which can be uploaded and named in model.backbone"
)


def find_prefix(architecture: Architecture) -> str | None:
    """The beginning of the names of the backbone's tensors; None for networks without one."""
    return getattr(architecture, "backbone_prefix", None)


def take_backbone(
    architecture: Architecture, wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The weights of a classifier that are those of the network's backbone, by their names there.

    `wanted` is the network's state dict and `state` the classifier's; either may be on the `meta`
    device. Raises `ParameterError` for a network without a backbone, or a classifier that lacks a
    part of it or has it in another shape.
    """
    prefix = find_prefix(architecture)
    if prefix is None:
        raise ParameterError("the network has no backbone", pointer="/model/backbone")
    parts = {
        name.removeprefix(prefix): tensor
        for name, tensor in wanted.items()
        if name.startswith(prefix)
    }
    shared = {start: sum(start + name in state for name in parts) for start in PREFIXES}
    start = max(PREFIXES, key=lambda prefix: shared[prefix])
    taken = {name: state[start + name] for name in parts if start + name in state}
    missing = [name for name in parts if name not in taken and name.split(".")[-1] not in OPTIONAL]
    other = [name for name, tensor in taken.items() if tensor.shape != parts[name].shape]
    if missing or other:
        problem = f"it lacks {missing[0]}" if missing else f"{other[0]} has another shape"
        raise ParameterError(f"the backbone does not fit: {problem}", pointer="/model/backbone")
    return {prefix + name: tensor for name, tensor in taken.items()}
