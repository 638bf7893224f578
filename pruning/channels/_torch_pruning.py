"""torch-pruning, imported without timm, and what is used of its inner parts.

Where timm is installed, torch-pruning imports it to count operations, which is not asked of it
here. With timm come torchvision and torch's compiler, which take most of the time until a process
can work.
"""

from __future__ import annotations

import importlib
import sys

__all__ = ["BasePruningFunc", "HybridIndex", "torch_pruning"]


def _import_without_timm() -> None:
    """Import torch-pruning; timm is named as missing meanwhile, unless it is there already."""
    is_loaded = "timm" in sys.modules
    sys.modules.setdefault("timm", None)  # type: ignore[arg-type]
    try:
        importlib.import_module("torch_pruning")
    finally:
        if not is_loaded:
            del sys.modules["timm"]


_import_without_timm()

import torch_pruning  # noqa: E402
from torch_pruning._helpers import _HybridIndex as HybridIndex  # noqa: E402
from torch_pruning.pruner.function import BasePruningFunc  # noqa: E402
