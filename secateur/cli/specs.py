"""The job to submit: a file, flags, or a file overridden by flags."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import typer


def read_spec(source: str | None) -> dict[str, Any]:
    """Return the spec in a file, or on stdin for `-`; raises `typer.BadParameter` unless it is a
    JSON object.
    """
    if source is None:
        return {}
    try:
        if source == "-":
            text = sys.stdin.read()
        else:
            with open(source, encoding="utf-8") as file:
                text = file.read()
        spec = json.loads(text)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"cannot read {source}: {error}") from None
    if not isinstance(spec, dict):
        raise typer.BadParameter(f"{source} must hold a JSON object")
    return spec


FLAGS = {
    "flops": "--flops",
    "parameters": "--parameters",
    "size_bytes": "--size",
    "max_error_increase": "--max-error-increase",
}
"""The flag of each quantity that budgets and limits on the error are told in."""
UNITS = {"": 1, "B": 1, "K": 10**3, "KB": 10**3, "M": 10**6, "MB": 10**6, "G": 10**9, "GB": 10**9}
"""The units that may follow a number: powers of 1000."""


def read_amount(text: str, flag: str) -> float:
    """Return a budget: a share, or a whole number with a unit.

    >>> read_amount("0.5", "--flops"), read_amount("4MB", "--size"), read_amount("1.5 M", "--flops")
    (0.5, 4000000, 1500000)
    >>> read_amount("4.1MB", "--size")
    4100000
    """
    matched = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([KMG]?B?)\s*", text.upper())
    if matched is None:
        raise typer.BadParameter(f"{flag} {text}: give a share as 0.5, or an amount as 4MB")
    amount = Decimal(matched[1]) * UNITS[matched[2]]
    if amount > 1 and amount != int(amount):
        raise typer.BadParameter(f"{flag} {text}: an amount above 1 is a whole number")
    return int(amount) if amount > 1 else float(amount)


def _read_targets(
    sparsity: Sequence[float], budgets: Mapping[str, Sequence[str]]
) -> dict[str, list[float]]:
    """The targets of the flags, empty without any; one kind of them."""
    targets = {
        quantity: [read_amount(value, FLAGS[quantity]) for value in values]
        for quantity, values in budgets.items()
        if values
    }
    if sparsity:
        targets["sparsity"] = list(sparsity)
    if len(targets) > 1:
        raise typer.BadParameter(f"targets are of one kind, not {' and '.join(targets)}")
    return targets


def _choose_retraining(spec: dict[str, Any], mode: str | None, epochs: int | None) -> None:
    """Write the retraining of the flags into the spec."""
    if mode == "none":
        spec["retrain"] = {"mode": "none"}
    elif mode is not None:
        spec["retrain"] = _object(spec, "retrain") | {"mode": mode}
    if epochs is not None:
        spec["retrain"] = _object(spec, "retrain") | {"epochs": epochs}


def read_evaluations(names: Sequence[str]) -> str | list[dict[str, str]]:
    """The evaluations of the flags: `all` by itself, or some by name."""
    if "all" not in names:
        return [{"name": name} for name in names]
    if len(names) > 1:
        raise typer.BadParameter("--evaluation all: it is every one; leave the others out")
    return "all"


def override(
    spec: dict[str, Any],
    *,
    model: str | None,
    dataset: str | None,
    sparsity: Sequence[float],
    budgets: Mapping[str, Sequence[str]],
    criterion: Sequence[str],
    epochs: int | None,
    retrain: str | None,
    seed: int | None,
    replicates: int | None,
    evaluation: Sequence[str],
) -> dict[str, Any]:
    """Return the spec with the flags written over it; fields without a flag stay. A family and a
    job that judges networks take `--dataset` alone.
    """
    spec = {"type": "prune"} | spec
    needed = NEEDED.get(str(spec["type"]))
    flags = {
        "--model": model,
        "--sparsity": sparsity or None,
        **{FLAGS[quantity]: values or None for quantity, values in budgets.items()},
        "--criterion": criterion or None,
        "--epochs": epochs,
        "--retrain": retrain,
        "--seed": seed,
        "--replicates": replicates,
        "--evaluation": evaluation or None,
    }
    unsuited = [flag for flag, value in flags.items() if value is not None]
    if needed is not None and unsuited:
        raise typer.BadParameter(
            f"{', '.join(unsuited)}: for a job of the type {spec['type']}, only --dataset can be "
            "set beside the file"
        )
    if model is not None:
        spec["model"] = {"id": model}
    if dataset is not None:
        kept = {
            key: value
            for key, value in _object(spec, "dataset").items()
            if key not in ("id", "builtin")
        }
        spec["dataset"] = read_dataset(dataset) | kept
    targets = _read_targets(sparsity, budgets)
    if targets:
        spec["targets"] = targets
    if criterion:
        methods = [{"name": name} for name in criterion]
        spec["criterion"] = methods[0] if len(methods) == 1 else methods
    _choose_retraining(spec, retrain, epochs)
    if seed is not None:
        spec["seed"] = seed
    if replicates is not None:
        spec["replicates"] = replicates
    if evaluation:
        spec["evaluations"] = read_evaluations(evaluation)
    _require_fields(spec)
    return spec


def read_dataset(dataset: str) -> dict[str, Any]:
    """Return the reference to a dataset from `ID` or `builtin:NAME`.

    >>> read_dataset("builtin:digits")
    {'builtin': 'digits'}
    """
    kind, _, name = dataset.rpartition(":")
    if kind not in ("", "builtin"):
        raise typer.BadParameter(f"--dataset {dataset}: give an id or builtin:NAME")
    return {kind or "id": name}


def choose_layers(
    spec: dict[str, Any],
    *,
    include: Sequence[str],
    exclude: Sequence[str],
    overrides: Sequence[str],
) -> dict[str, Any]:
    """Return the spec with the layers that the flags choose written over it.

    A kind of layer is written `kind:Conv2d`, a sparsity `PATTERN=SPARSITY`.

    >>> choose_layers({}, include=["kind:Conv2d"], exclude=["conv1"], overrides=["layer3.*=0.5"])
    {'include': [{'kind': 'Conv2d'}], 'exclude': ['conv1'], 'overrides': {'layer3.*': 0.5}}
    """
    chosen = dict(spec)
    for field, patterns in (("include", include), ("exclude", exclude)):
        if patterns:
            chosen[field] = [_read_pattern(pattern) for pattern in patterns]
    if overrides:
        chosen["overrides"] = {}
        for text in overrides:
            pattern, sparsity = _read_override(text)
            if pattern in chosen["overrides"]:
                raise typer.BadParameter(f"--override {text}: {pattern} is given twice")
            chosen["overrides"][pattern] = sparsity
    return chosen


def _read_pattern(text: str) -> str | dict[str, str]:
    """A pattern of names, or a kind of layer written `kind:Conv2d`."""
    prefix, _, kind = text.partition(":")
    return {"kind": kind} if prefix == "kind" else text


def _read_override(text: str) -> tuple[str, float]:
    """A pattern and its sparsity, written `PATTERN=SPARSITY`."""
    pattern, _, sparsity = text.rpartition("=")
    try:
        number = float(sparsity)
    except ValueError:
        number = math.nan
    if not pattern or not math.isfinite(number):
        raise typer.BadParameter(f"--override {text}: write PATTERN=SPARSITY, as in layer3.*=0.5")
    return pattern, number


NEEDED = {"family": ["model", "dataset", "members"], "evaluate": ["model", "pruned", "dataset"]}
"""The fields that no default fills in, of jobs that a file describes."""


def _require_fields(spec: dict[str, Any]) -> None:
    """Raise `typer.BadParameter` where the spec lacks what no default fills in."""
    needed, remedy = NEEDED.get(str(spec["type"])), "them in the file"
    if needed is None:
        needed = ["dataset"] if spec.get("preset") is not None else ["model", "dataset", "targets"]
        remedy = "a spec file, or --model, --dataset and --sparsity (or a budget)"
    missing = [name for name in needed if name not in spec]
    if missing:
        raise typer.BadParameter(f"the job lacks {', '.join(missing)}: give {remedy}")


def _object(spec: dict[str, Any], name: str) -> dict[str, Any]:
    value = spec.get(name)
    return value if isinstance(value, dict) else {}
