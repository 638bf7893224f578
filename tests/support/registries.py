"""Every registry of methods, for what all of them must keep."""

from __future__ import annotations

from typing import Any

import pytest

from pruning.allocations import allocations
from pruning.architectures import architectures
from pruning.criteria import criteria
from pruning.data.builtin import datasets
from pruning.data.corruptions import corruptions
from pruning.evaluations import evaluations
from pruning.granularities import granularities
from pruning.registry import Registry
from pruning.schedules import schedules
from pruning.sparsifiers import sparsifiers

REGISTRIES: dict[str, Registry[Any]] = {
    "allocations": allocations,
    "architectures": architectures,
    "corruptions": corruptions,
    "criteria": criteria,
    "datasets": datasets,
    "evaluations": evaluations,
    "granularities": granularities,
    "schedules": schedules,
    "sparsifiers": sparsifiers,
}
REQUIRED: dict[str, dict[str, Any]] = {
    "huggingface": {
        "config": {"model_type": "vit", "architectures": ["ViTForImageClassification"]}
    },
    "timm": {"name": "test_efficientnet"},
}
"""What methods have to be given: an architecture that is a library's own network, which it is."""
EVERY = [
    pytest.param(registry, name, id=f"{kind}-{name}")
    for kind, registry in REGISTRIES.items()
    for name in registry.names()
]


def list_corners(registry: Registry[Any], name: str) -> list[dict[str, Any]]:
    """No parameters, and each bounded parameter at its least and its largest value."""
    choices: list[dict[str, Any]] = [{}]
    for key, field in registry.entry(name)["params"].get("properties", {}).items():
        step = 1 if field.get("type") == "integer" else 1e-3
        choices += [{key: field[bound]} for bound in ("minimum", "maximum") if bound in field]
        choices += [
            {key: field[bound] + sign * step}
            for bound, sign in (("exclusiveMinimum", 1), ("exclusiveMaximum", -1))
            if bound in field
        ]
    return choices
