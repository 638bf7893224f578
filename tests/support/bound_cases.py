"""Methods whose bounds are tested, and their networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

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


def randomise(model: nn.Module) -> nn.Module:
    """The model in float64 and eval mode, the statistics of BatchNorm random too."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for name in module.state_dict():
                if "num" not in name:
                    getattr(module, name).data.uniform_(0.5, 2).sub_(1 if name == "bias" else 0)
    return model.double().eval()


@pytest.fixture(autouse=True)
def remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute the results that do not depend on the draws only once."""

    def remember(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        results: dict[Any, Tensor] = {}

        def compute_once(*args: Any) -> Tensor:
            key = tuple(
                (value.shape, value.numpy().tobytes()) if isinstance(value, Tensor) else value
                for value in args
            )
            if key not in results:
                results[key] = function(*args)
            return results[key].clone()

        return compute_once

    for name in ("spend_budget", "find_draws"):
        function = getattr(pruning.sparsifiers._signed_rows, name)
        monkeypatch.setattr(pruning.sparsifiers._signed_rows, name, remember(function))
