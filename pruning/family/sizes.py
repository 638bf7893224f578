"""What torch knows of the members: their architecture's parameters, their size and their work."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pruning.schemas.base import Document
from pruning.schemas.family import FamilySpec


class Size(Document):
    """One network of the family."""

    depth: float
    width: float
    kwargs: dict[str, Any]
    parameters: int
    prunable: int
    flops: int
    """Of one image forward."""


def build_sizes(
    spec: FamilySpec, shape: Sequence[int], classes: Sequence[str], task: str
) -> tuple[Size, ...]:
    """Every depth with every width of the members and the candidates, built without memory.

    Raises `ParameterError` for an architecture that takes no depth and width, or not these,
    `DataError` for images that do not fit.
    """
    import torch

    from pruning.architectures import architectures
    from pruning.errors import ParameterError, SecateurError
    from pruning.masks import count_parameters, find_prunable
    from pruning.measurement.costs import dense_costs
    from pruning.networks.loading import check_fits, read_parameters, resolve

    name = spec.model.architecture
    scaled = find_member_method(name)
    if scaled is None:
        known = [one for one in architectures.names() if find_member_method(one) is not None]
        raise ParameterError(
            f"architecture {name!r} takes no depth and width; those that do: {', '.join(known)}",
            pointer="/model/architecture",
        )
    found = []
    for depth, width, pointer in _networks(spec):
        own: set[str] = {"depth", "width"}
        try:
            member = scaled(depth, width)
            own &= set(member)
            doubled = sorted(set(member) & set(spec.model.kwargs))
            if doubled:
                raise ParameterError(
                    f"{', '.join(doubled)}: the members' own; leave it out", pointer="/model/kwargs"
                )
            kwargs = {**spec.model.kwargs, **member}
            architecture = resolve(name, kwargs, shape=shape, classes=len(classes))
        except SecateurError as error:
            place = (
                f"{pointer}/{error.pointer}s"
                if error.pointer in own
                else "/model/kwargs"
                if error.pointer in {*spec.model.kwargs, "/model/kwargs"}
                else pointer
            )
            raise type(error)(
                f"depth {depth:g}, width {width:g}: {error.message}", pointer=place
            ) from None
        check_fits(
            architecture,
            shape,
            classes,
            "segmentation" if task == "segmentation" else "classification",
        )
        with torch.device("meta"):
            network = architecture.build().eval()
        count = sum(w.numel() for w in find_prunable(network, spec.exclude).values())
        found.append(
            Size(
                depth=depth,
                width=width,
                kwargs=kwargs,
                parameters=count_parameters(network),
                prunable=count,
                flops=dense_costs(
                    name,
                    json.dumps(read_parameters(architecture), sort_keys=True),
                    (shape[0], shape[1], shape[2]),
                )[0],
            )
        )
    return tuple(found)


def find_member_method(architecture: str) -> Callable[[int, float], dict[str, Any]] | None:
    """How an architecture makes a member of a family from depth and width; `None` where it has no
    families.
    """
    from pruning.architectures import architectures

    return getattr(architectures.get(architecture), "member", None)


def _networks(spec: FamilySpec) -> Iterable[tuple[int, float, str]]:
    """Depth, width and the pointer to where they come from, each pair once."""
    seen = set()
    for place, grid in (("/members", spec.members), ("/candidates", spec.candidates)):
        for depth in grid.depths if grid is not None else ():
            for width in grid.widths if grid is not None else ():
                if (depth, width) not in seen:
                    seen.add((depth, width))
                    yield depth, width, place
