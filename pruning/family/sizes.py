"""The sizes of the members, for which torch is needed: arguments, parameters and work."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pruning.errors import ParameterError, SecateurError
from pruning.schemas.base import Document
from pruning.schemas.family import FamilySpec

if TYPE_CHECKING:
    from pruning.types import Architecture


class Size(Document):
    """A network of the family and its costs."""

    depth: float
    width: float
    kwargs: dict[str, Any]
    parameters: int
    prunable: int
    flops: int
    """FLOPs of one image forward."""


def build_sizes(
    spec: FamilySpec, shape: Sequence[int], classes: Sequence[str], task: str
) -> tuple[Size, ...]:
    """Build every depth with every width of the members and the candidates, without memory.

    Raises `ParameterError` for an architecture that takes no depth and width, or not these values,
    `DataError` for images that do not fit.
    """
    from pruning.architectures import architectures
    from pruning.measurement.costs import dense_costs
    from pruning.networks.loading import check_fits, read_parameters, resolve

    name = spec.model.architecture
    make_member = find_member_method(name)
    if make_member is None:
        scalable = [
            other for other in architectures.names() if find_member_method(other) is not None
        ]
        raise ParameterError(
            f"architecture {name!r} takes no depth and width; those that do: {', '.join(scalable)}",
            pointer="/model/architecture",
        )
    sizes = []
    for depth, width, pointer in _list_networks(spec):
        own: set[str] = {"depth", "width"}
        try:
            member = make_member(depth, width)
            own &= set(member)
            kwargs = _merge_kwargs(spec, member)
            architecture = resolve(name, kwargs, shape=shape, classes=len(classes))
        except SecateurError as error:
            raise type(error)(
                f"depth {depth:g}, width {width:g}: {error.message}",
                pointer=_locate_error(spec, error, own, pointer),
            ) from None
        check_fits(
            architecture,
            shape,
            classes,
            "segmentation" if task == "segmentation" else "classification",
        )
        parameters, prunable = _count_weights(architecture, spec)
        constructor = json.dumps(read_parameters(architecture), sort_keys=True)
        flops, _ = dense_costs(name, constructor, (shape[0], shape[1], shape[2]))
        size = Size(
            depth=depth,
            width=width,
            kwargs=kwargs,
            parameters=parameters,
            prunable=prunable,
            flops=flops,
        )
        sizes.append(size)
    return tuple(sizes)


def _count_weights(architecture: Architecture, spec: FamilySpec) -> tuple[int, int]:
    """The numbers of all and of prunable parameters, without memory for them."""
    import torch

    from pruning.masks import count_parameters, find_prunable
    from pruning.networks.loading import build_network

    with torch.device("meta"):
        network = build_network(architecture).eval()
    prunable = sum(
        weight.numel() for weight in find_prunable(network, spec.exclude, spec.include).values()
    )
    return count_parameters(network), prunable


def _merge_kwargs(spec: FamilySpec, member: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the spec and of the member together; `ParameterError` for one in both."""
    doubled = sorted(set(member) & set(spec.model.kwargs))
    if doubled:
        raise ParameterError(
            f"{', '.join(doubled)}: the members' own; leave it out", pointer="/model/kwargs"
        )
    return {**spec.model.kwargs, **member}


def _locate_error(spec: FamilySpec, error: SecateurError, own: set[str], pointer: str) -> str:
    """The pointer into the spec for an error about one member; `pointer` is its grid."""
    if error.pointer in own:
        return f"{pointer}/{error.pointer}s"
    if error.pointer in {*spec.model.kwargs, "/model/kwargs"}:
        return "/model/kwargs"
    return pointer


def find_member_method(architecture: str) -> Callable[[int, float], dict[str, Any]] | None:
    """Find the method that makes a member from depth and width; `None` where there is none."""
    from pruning.architectures import architectures

    return getattr(architectures.get(architecture), "member", None)


def _list_networks(spec: FamilySpec) -> Iterable[tuple[int, float, str]]:
    """Depth, width and the pointer to the grid that they come from, each pair once."""
    listed = set()
    for pointer, grid in (("/members", spec.members), ("/candidates", spec.candidates)):
        if grid is None:
            continue
        for depth, width in itertools.product(grid.depths, grid.widths):
            if (depth, width) not in listed:
                listed.add((depth, width))
                yield depth, width, pointer
