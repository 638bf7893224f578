"""Methods whose bounds are tested, and their networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

import pruning.sparsifiers._signed_rows

SAMPLERS: dict[str, dict[str, Any]] = {
    f"{name} {variant}": {"name": name, "params": {"variant": variant}}
    for name, variant in (
        ("sipp", "randomized"),
        ("sipp", "hybrid"),
        ("pfp", "randomized"),
        ("pfp", "top"),
        ("mussay", "importance"),
        ("corenet", "corenet"),
        ("corenet", "plus_plus"),
    )
}
DETERMINISTIC: dict[str, dict[str, Any]] = {
    "mussay top_k": {"name": "mussay", "params": {"variant": "top_k"}},
    **{
        name: {"name": name}
        for name in ("magnitude", "sipp", "pfp", "filter_norm", "wanda", "random", "taylor")
    },
}


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not depend on what is drawn is worked out once."""

    def once(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        known: dict[Any, Tensor] = {}

        def found(*args: Any) -> Tensor:
            key = tuple(
                (one.shape, one.numpy().tobytes()) if isinstance(one, Tensor) else one
                for one in args
            )
            if key not in known:
                known[key] = function(*args)
            return known[key].clone()

        return found

    for name in ("spent", "draws_for"):
        monkeypatch.setattr(
            pruning.sparsifiers._signed_rows,
            name,
            once(getattr(pruning.sparsifiers._signed_rows, name)),
        )
