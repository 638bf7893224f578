"""Short names that distinguish the criteria of a job."""

from __future__ import annotations

import re
from typing import Any

from pruning.schemas.recipe import Method, Recipe


def label_criteria(recipe: Recipe) -> list[str]:
    """Return a short unique name for every criterion of the recipe: its name, and the parameters in
    which others of that name differ. Networks that were pruned elsewhere have their own names.

    >>> from pruning.schemas.recipe import Targets
    >>> criteria = (
    ...     {"name": "qm", "params": {"pi": 1}},
    ...     {"name": "qm", "params": {"pi": 14, "stages": "linear"}},
    ... )
    >>> label_criteria(Recipe(criterion=criteria, targets=Targets(sparsity=(0.5,))))
    ['qm-pi1', 'qm-pi14-linear']
    """
    if not recipe.prunes:
        return [method.params["name"] for method in recipe.criteria]
    labels = [_label_criterion(method, recipe) for method in recipe.criteria]
    return [
        label if labels.count(label) == 1 else f"{label}-{labels[: index + 1].count(label)}"
        for index, label in enumerate(labels)
    ]


def _label_criterion(method: Method, recipe: Recipe) -> str:
    others = [
        other.params
        for other in recipe.criteria
        if other.name == method.name and other is not method
    ]
    parts = [method.name]
    for name, value in method.params.items():
        if any(params.get(name) != value for params in others):
            parts.append(_shorten(name, value))
    return re.sub(r"[^a-z0-9._-]", "", "-".join(parts).lower())


def _shorten(name: str, value: Any) -> str:
    """Return a value as part of a label; a number is preceded by the name of its parameter, a word
    is not.
    """
    if isinstance(value, str):
        return value
    return f"{name}{value:g}" if isinstance(value, float) else f"{name}{value}"
