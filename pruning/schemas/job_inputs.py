"""The network and the data that a report is about."""

from __future__ import annotations

from typing import Any, Literal

from pruning.schemas.base import Document
from pruning.schemas.preprocessing import Preprocessing


class ModelInfo(Document):
    """The network that was pruned."""

    architecture: str
    kwargs: dict[str, Any]
    sha256: str | None
    parameters: int
    prunable: int
    normalize: dict[str, tuple[float, ...]]
    preprocessing: Preprocessing | None = None
    """The preprocessing of the images, and who chose it; `null` in reports of earlier versions."""


class DataInfo(Document):
    """The data the job ran on, after limits and the validation split."""

    name: str
    sha256: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    """Channels, height, width."""
    fit: int
    val: int
    test: int
    task: Literal["classification", "segmentation"] = "classification"
    """With `segmentation`, the error of an image is 1 - its mean IoU."""
    guessing_error: float | None = None
    """The error of the best constant answer on the test images; `null` in earlier reports."""
