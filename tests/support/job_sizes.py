"""The numbers of images and weights by which the costs of a job are planned."""

from __future__ import annotations

from typing import Any

IMAGES = {"fit": 40, "val": 10, "test": 30}
COUNTS = {"train": 50, "test": 30}
MANY: dict[str, Any] = {
    "prunable": [(10**6,)],
    "forward_flops": 1,
    "parameters": 1,
    "activations": 1,
    "classes": 3,
}
