"""A network of a job while its files are written and its costs are measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from pruning.types import Masks


@dataclass(kw_only=True)
class ExportedNetwork:
    """A network that is being exported, and what is known of it so far."""

    name: str
    """The name of its files: a checkpoint's id, or `given`."""
    model: nn.Module
    masks: Masks
    info: dict[str, Any]
    """The metadata of its files."""
    compacted: bool = False
    onnx_path: Path | None = None
    """Its ONNX file; None where there is none."""
    note: dict[str, Any] = field(default_factory=dict)
    """The note of its stage."""
    warnings: list[str] = field(default_factory=list)

    @property
    def applied_masks(self) -> Masks:
        """The masks of the tensors as they are stored: those of a compacted network no longer have
        the shapes of the masks.
        """
        return {} if self.compacted else self.masks
