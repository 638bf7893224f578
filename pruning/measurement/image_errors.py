"""The errors and answers of a job's networks on each test image, as a file from which replicates
are pooled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pruning.measurement.measure import Measured

LABELS = "labels"
INDICES = "indices"
PICTURED = "pictured"
PICTURES = "pictures"
MOST_PICTURED = 2_000
"""The number of images whose pixels the file holds, at most."""
AT_ONCE = 64
"""The number of images that are read at once to be made smaller."""
LONGEST_SIDE = 64
"""The longer side in pixels of a picture that the file holds, at most."""


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
    pictured: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """int64 (pictured,): the places of the images whose pixels are held."""
    pictures: Tensor = field(default_factory=lambda: torch.zeros(0, 1, 1, 1, dtype=torch.uint8))
    """uint8 (pictured, C, H, W): these images, made smaller."""

    @staticmethod
    def collect(
        networks: Mapping[str, Measured],
        indices: Tensor,
        labels: Tensor,
        *,
        pictured: Tensor | None = None,
        pictures: Tensor | None = None,
    ) -> ImageErrors:
        """The errors of measured networks on test images with these indices and labels; masks as
        labels are left out. `pictures` (pictured, C, H, W) are the small images at the places
        `pictured`.
        """
        answers = {
            name: measured.answers.classes
            for name, measured in networks.items()
            if measured.answers is not None
        }
        own = ImageErrors(
            indices=indices.cpu(),
            labels=labels.cpu() if labels.dim() == 1 else None,
            wrong={name: measured.wrong for name, measured in networks.items()},
            val_wrong={name: measured.val_wrong for name, measured in networks.items()},
            answers=answers,
        )
        if pictured is None or pictures is None:
            return own
        return replace(own, pictured=pictured.cpu(), pictures=pictures)

    def save(self, path: Path) -> None:
        """Write the file."""
        tensors = {
            INDICES: self.indices,
            PICTURED: self.pictured,
            PICTURES: self.pictures,
        }
        if self.labels is not None:
            tensors[LABELS] = self.labels
        for part, values in self._list_parts().items():
            tensors |= {f"{part}/{name}": tensor for name, tensor in values.items()}
        # a tensor that several names share is written once for each
        save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, path)

    @staticmethod
    def load(path: Path) -> ImageErrors:
        """Read the file; raises `KeyError` where it lacks something. One of an earlier version has
        no pictures.
        """
        tensors = load_file(path)
        parts: dict[str, dict[str, Tensor]] = {"wrong": {}, "val_wrong": {}, "answers": {}}
        for name, tensor in tensors.items():
            part, _, network = name.partition("/")
            if network:
                parts[part][network] = tensor
        own = ImageErrors(
            indices=tensors[INDICES],
            labels=tensors.get(LABELS),
            wrong=parts["wrong"],
            val_wrong=parts["val_wrong"],
            answers=parts["answers"],
        )
        if PICTURED not in tensors:
            return own
        return replace(own, pictured=tensors[PICTURED], pictures=tensors[PICTURES])

    def find_picture(self, place: int) -> Tensor | None:
        """The pixels (C, H, W) of a test image, by its place among them, where they are held."""
        held = torch.nonzero(self.pictured == place).flatten()
        return self.pictures[int(held[0])] if len(held) else None

    def sees_as(self, other: ImageErrors) -> bool:
        """Whether both are errors on the same images in the same order."""
        return torch.equal(self.indices, other.indices)

    def _list_parts(self) -> dict[str, Mapping[str, Tensor]]:
        return {"wrong": self.wrong, "val_wrong": self.val_wrong, "answers": self.answers}


def find_disagreements(answers: Mapping[str, Tensor], references: Mapping[str, str]) -> Tensor:
    """The places of the test images to which a network answers otherwise than its reference, those
    of most such networks first, `MOST_PICTURED` at most; int64.

    `references` names the reference of each network. An image whose most frequent answer over
    several jobs is none of the most frequent over their references is among these in one of them.

    >>> answers = {"pruned": torch.tensor([1, 2, 3]), "dense": torch.tensor([1, 0, 3])}
    >>> find_disagreements(answers, {"pruned": "dense"})
    tensor([1])
    """
    differing = [
        answers[name] != answers[reference]
        for name, reference in references.items()
        if name in answers and reference in answers
    ]
    if not differing:
        return torch.zeros(0, dtype=torch.int64)
    counts = torch.stack(differing).sum(0).cpu()
    order = counts.argsort(descending=True, stable=True)
    return order[: int((counts > 0).sum())][:MOST_PICTURED]


def collect_small_images(read: Callable[[Tensor], Tensor], places: Tensor) -> Tensor | None:
    """The images at these places, made smaller, a few at a time; None for no place."""
    parts = [shrink_images(read(part).cpu()) for part in torch.split(places, AT_ONCE) if len(part)]
    return torch.cat(parts) if parts else None


def shrink_images(images: Tensor) -> Tensor:
    """Images (n, C, H, W), uint8, averaged over square blocks so that no side is longer than
    `LONGEST_SIDE`; unchanged where they are as small.

    >>> shrink_images(torch.zeros(1, 3, 130, 64, dtype=torch.uint8)).shape
    torch.Size([1, 3, 43, 21])
    """
    factor = -(-max(images.shape[-2:]) // LONGEST_SIDE)
    if factor <= 1 or not len(images):
        return images
    blocks = torch.nn.functional.avg_pool2d(images.float(), factor)
    return blocks.round().to(torch.uint8)
