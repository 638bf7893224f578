"""Short names by which a job tells its criteria apart."""

from __future__ import annotations

import re
from typing import Any

from pruning.schemas.recipe import Recipe


def label_criteria(recipe: Recipe) -> list[str]:
    """A short unique name for every criterion of the recipe: its name, and the parameters that set
    it apart from others.

    >>> from pruning.schemas.recipe import Targets
    >>> criteria = (
    ...     {"name": "qm", "params": {"pi": 1}},
    ...     {"name": "qm", "params": {"pi": 14, "stages": "linear"}},
    ... )
    >>> label_criteria(Recipe(criterion=criteria, targets=Targets(sparsity=(0.5,))))
    ['qm-pi1', 'qm-pi14-linear']
    """
    found = []
    for method in recipe.criteria:
        others = [
            one.params for one in recipe.criteria if one.name == method.name and one is not method
        ]
        apart = [
            name
            for name in method.params
            if any(one.get(name) != method.params[name] for one in others)
        ]
        found.append(
            "-".join([method.name, *(_short(name, method.params[name]) for name in apart)])
        )
    found = [re.sub(r"[^a-z0-9._-]", "", label.lower()) for label in found]
    return [
        label if found.count(label) == 1 else f"{label}-{found[: index + 1].count(label)}"
        for index, label in enumerate(found)
    ]


def _short(name: str, value: Any) -> str:
    """A word speaks for itself, a number does not."""
    if isinstance(value, str):
        return value
    return f"{name}{value:g}" if isinstance(value, float) else f"{name}{value}"
