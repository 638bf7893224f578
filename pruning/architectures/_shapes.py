"""The parameters of a network, read off the names and shapes of its state dict."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""The shapes of the tensors of a state dict, by name."""


def count_numbered(shapes: Shapes, pattern: str) -> int:
    """The number of names of which the whole fits a pattern.

    >>> count_numbered({"layer1.0.conv1.weight": (), "layer2.0.conv1.weight": ()}, r"layer1.*")
    1
    """
    return sum(re.fullmatch(pattern, name) is not None for name in shapes)


def has_names(shapes: Shapes, *names: str) -> bool:
    """Whether a state dict has all of these tensors."""
    return all(name in shapes for name in names)
