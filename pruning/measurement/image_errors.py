"""The errors and answers of a job's networks on each test image, as a file from which replicates
are pooled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pruning.measurement.measure import Measured

LABELS = "labels"
INDICES = "indices"


@dataclass(frozen=True, kw_only=True)
class ImageErrors:
    """The errors of networks, by their names in the report, on the same images."""

    indices: Tensor
    """int64 (test images,): the index of each test image in the dataset's own split."""
    labels: Tensor | None
    """int64 (test images,): the class of each test image; None for segmentation."""
    wrong: Mapping[str, Tensor] = field(default_factory=dict)
    """bool (test images,): True is wrong; for segmentation the error of the image."""
    val_wrong: Mapping[str, Tensor] = field(default_factory=dict)
    """The same for the validation images."""
    answers: Mapping[str, Tensor] = field(default_factory=dict)
    """int32 (test images,): the class with the largest logit; empty for segmentation."""

    @staticmethod
    def collect(networks: Mapping[str, Measured], indices: Tensor, labels: Tensor) -> ImageErrors:
        """The errors of measured networks on test images with these indices and labels; masks as
        labels are left out.
        """
        answers = {
            name: measured.answers.classes
            for name, measured in networks.items()
            if measured.answers is not None
        }
        return ImageErrors(
            indices=indices.cpu(),
            labels=labels.cpu() if labels.dim() == 1 else None,
            wrong={name: measured.wrong for name, measured in networks.items()},
            val_wrong={name: measured.val_wrong for name, measured in networks.items()},
            answers=answers,
        )

    def save(self, path: Path) -> None:
        """Write the file."""
        tensors = {INDICES: self.indices}
        if self.labels is not None:
            tensors[LABELS] = self.labels
        for part, values in self._list_parts().items():
            tensors |= {f"{part}/{name}": tensor for name, tensor in values.items()}
        # a tensor that several names share is written once for each
        save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, path)

    @staticmethod
    def load(path: Path) -> ImageErrors:
        """Read the file; raises `KeyError` where it lacks something."""
        tensors = load_file(path)
        parts: dict[str, dict[str, Tensor]] = {"wrong": {}, "val_wrong": {}, "answers": {}}
        for name, tensor in tensors.items():
            part, _, network = name.partition("/")
            if network:
                parts[part][network] = tensor
        return ImageErrors(indices=tensors[INDICES], labels=tensors.get(LABELS), **parts)

    def sees_as(self, other: ImageErrors) -> bool:
        """Whether both are errors on the same images in the same order."""
        return torch.equal(self.indices, other.indices)

    def _list_parts(self) -> dict[str, Mapping[str, Tensor]]:
        return {"wrong": self.wrong, "val_wrong": self.val_wrong, "answers": self.answers}
