"""Every parameter of every method at the ends of its schema: estimated, or refused by name."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from pruning.errors import SecateurError
from pruning.pipeline.estimate_job import estimate_job
from pruning.schemas.job import JobSpec
from tasks.processes.helper import build_catalogue

pytestmark = pytest.mark.slow
FIELDS = {
    "criteria": "criterion",
    "allocations": "allocation",
    "granularities": "granularity",
    "sparsifiers": "sparsifier",
    "schedules": "schedule",
    "evaluations": "evaluations",
}
"""The field of a job for each kind of method."""
NETWORKS: tuple[dict[str, Any], ...] = (
    {"architecture": "mlp", "train": {"epochs": 1}},
    {"architecture": "cifar_resnet", "kwargs": {"depth": 8}, "train": {"epochs": 1}},
)


def list_extremes(schema: dict[str, Any], root: dict[str, Any]) -> list[Any]:
    """The values at the ends of a JSON schema; far out where it has no end."""
    if "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return list_extremes(target, root)
    values = [value for branch in schema.get("anyOf", ()) for value in list_extremes(branch, root)]
    values += schema.get("enum", [])
    kind = schema.get("type")
    if kind == "boolean":
        values += [True, False]
    if kind in ("integer", "number"):
        values += _list_ends(schema, whole=kind == "integer")
    if kind == "array":
        items = list_extremes(schema["items"], root)[:3] if schema.get("items") else []
        values += [[item] for item in items]
        values += [[]] if schema.get("minItems", 0) == 0 else []
    return values


def _list_ends(schema: dict[str, Any], *, whole: bool) -> Iterator[float]:
    """The smallest and the largest number that a schema allows."""
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if low is None and above is not None:
        low = above + 1 if whole else math.nextafter(above, math.inf)
    if high is None and below is not None:
        high = below - 1 if whole else math.nextafter(below, -math.inf)
    far = 2**63 if whole else 1.7e308
    yield -far if low is None else low
    yield far if high is None else high


@pytest.mark.parametrize("kind", sorted(FIELDS))
def test_parameters_at_their_ends_are_estimated_or_refused(kind: str) -> None:
    tried = 0
    for entry in build_catalogue({})[kind]:
        for name, schema in entry["params"].get("properties", {}).items():
            for value in list_extremes(schema, entry["params"]):
                method = {"name": entry["name"], "params": {name: value}}
                for network in NETWORKS:
                    job = {
                        "type": "prune",
                        "model": network,
                        "dataset": {"builtin": "digits"},
                        "targets": {"sparsity": [0.5]},
                        FIELDS[kind]: [method] if kind == "evaluations" else method,
                    }
                    tried += 1
                    check_estimate(job)
    assert tried > 0 or kind == "allocations"


def check_estimate(job: dict[str, Any]) -> None:
    """Estimate a job; it may be refused where it is read, or by an error that says why."""
    try:
        JobSpec.model_validate(job)
    except ValidationError:
        return
    try:
        estimate = estimate_job(job, None, None, [])
    except SecateurError:
        return
    assert 0 < estimate["units"] < math.inf
