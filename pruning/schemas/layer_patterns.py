"""Patterns that name weights: by their names, by those of their layers, or by the kind of layer."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import Field

from pruning.schemas.base import Document


class Kind(Document):
    """All layers of a kind."""

    kind: Annotated[str, Field(min_length=1)]
    """The class of the layers, as `GET /v1/models/{id}/layers` has it: `Conv2d`, `Linear`."""


Pattern = Annotated[str, Field(min_length=1)]
LayerPattern = Pattern | Kind
"""A glob pattern over the names of weights or of their layers, case-sensitive, or a kind of layer.

`*` stands for any characters, dots too, `?` for one, `[ab]` for one of those listed.
"""
MOST_PATTERNS = 1000
"""The largest number of patterns in a list: each is compared with the name of every layer."""
LayerPatterns = Annotated[tuple[LayerPattern, ...], Field(max_length=MOST_PATTERNS)]
"""Patterns that together mean all layers that any of them means."""
OverrideSparsity = Annotated[float, Field(ge=0, lt=1)]
Overrides = Annotated[dict[Pattern, OverrideSparsity], Field(max_length=MOST_PATTERNS)]
"""Sparsities by pattern; 0 leaves the layers dense, and they count as prunable."""


def matches(pattern: LayerPattern, name: str, kind: str | None = None) -> bool:
    """Return whether a pattern means the weight `name` of a layer of this kind.

    >>> matches("layer3.*", "layer3.0.conv1.weight"), matches("fc", "fc.weight")
    (True, True)
    >>> matches("FC", "fc.weight"), matches(Kind(kind="Linear"), "fc.weight", "Linear")
    (False, True)
    """
    if isinstance(pattern, Kind):
        return pattern.kind == kind
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(".")[0], pattern)


def list_layers(names: Iterable[str]) -> list[str]:
    """List the names of weights and of their layers, which patterns may name.

    >>> list_layers(["fc.weight", "weight"])
    ['fc.weight', 'fc', 'weight']
    """
    listed = [part for name in names for part in (name, name.rpartition(".")[0]) if part]
    return list(dict.fromkeys(listed))


def name_pointer(field: str, key: str | int) -> str:
    """The JSON pointer to an entry of a field of a job.

    >>> name_pointer("overrides", "a/b"), name_pointer("exclude", 0)
    ('/overrides/a~1b', '/exclude/0')
    """
    return f"/{field}/{str(key).replace('~', '~0').replace('/', '~1')}"
