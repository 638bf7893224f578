"""The job that judges networks which were pruned elsewhere, from the arguments of a command."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from pruning.schemas.gates import Gates
from secateur.cli.console import say
from secateur.client import Client

FORMAT_ENDING = re.compile(r"([.-])(dense|sparse|compressed|pth)\.[a-z]+$")
"""The ending of a downloaded checkpoint, beside which its `arch.json` lies."""
GATES = frozenset(Gates.model_fields)


def read_gates(texts: Sequence[str]) -> dict[str, Any]:
    """Return gates from `NAME=LIMIT`; one of a distribution is `min_prune_potential.NAME=LIMIT`.

    >>> read_gates(["max_error_increase=0.01", "min_prune_potential.fog 3=0.5"])
    {'max_error_increase': 0.01, 'min_prune_potential': {'fog 3': 0.5}}
    """
    gates: dict[str, Any] = {}
    for text in texts:
        name, _, limit = text.rpartition("=")
        gate, _, distribution = name.partition(".")
        try:
            value: float = int(limit) if limit.isdecimal() else float(limit)
        except ValueError:
            gate = ""
        if gate not in GATES:
            raise typer.BadParameter(
                f"--gate {text}: write NAME=LIMIT, as in max_error_increase=0.01; there are "
                f"{', '.join(sorted(GATES))}"
            )
        if distribution:
            gates.setdefault(gate, {})[distribution] = value
        else:
            gates[gate] = value
    return gates


def find_pruned(client: Client, dense: str, pruned: Sequence[str]) -> list[dict[str, str]]:
    """Return the pruned networks of a job from `[NAME=]ID|FILE`; files are uploaded first, as
    networks of the dense model's architecture.
    """
    references = []
    for text in pruned:
        name, _, source = text.rpartition("=")
        path = Path(source)
        reference = {"id": source}
        if path.exists():
            reference["id"] = _upload(client, dense, path)
            name = name or _clean(path)
        elif not re.fullmatch(r"[a-z]{3}_[0-9a-z]{8,40}", source):
            raise typer.BadParameter(f"{source}: neither the id of a model nor a file")
        if name:
            reference["name"] = name
        references.append(reference)
    return references


def _clean(path: Path) -> str:
    """A name of a network from that of its file."""
    stem = FORMAT_ENDING.sub("", path.name)
    stem = stem if stem != path.name else path.stem
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-._")[-40:].lstrip("-._")


def _upload(client: Client, dense: str, path: Path) -> str:
    """Upload a file like the dense model; with the `arch.json` beside it, where there is one."""
    arch = path.with_name(FORMAT_ENDING.sub(r"\1arch.json", path.name))
    known = client.models.get(dense).document()
    fields: dict[str, Any] = {name: known.get(name) for name in ("normalize", "classes")}
    if arch != path and arch.exists():
        model = client.models.upload(path, name=path.name, arch=arch, **fields)
        say(f"uploaded {model.id}: {path.name} with {arch.name}")
    else:
        model = client.models.upload(
            path, known.get("architecture"), kwargs=known.get("kwargs"), name=path.name, **fields
        )
        say(f"uploaded {model.id}: {path.name}")
    return model.id
