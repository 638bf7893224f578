"""The document of a small job."""

from __future__ import annotations

from typing import Any

MODEL, DATA = {"id": "mdl_00000000"}, {"builtin": "digits"}


def spec(**changes: Any) -> dict[str, Any]:
    base = {"type": "prune", "model": MODEL, "dataset": DATA, "targets": {"sparsity": [0.5]}}
    return {key: value for key, value in (base | changes).items() if value is not None}
