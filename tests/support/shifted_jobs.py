"""Parameters of evaluations under shift, and errors under shift image by image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pruning.analysis.job_record import JobRecord
from pruning.analysis.shifts import (
    Shift,
    draw_sample,
)
from pruning.data.corrupted import corrupt
from pruning.data.keyed_random import Draws
from pruning.data.tensors import Split

FEW_SHIFTS: dict[str, Any] = {
    "corruptions": ["fog", "gaussian_noise", "contrast"],
    "severities": [2],
    "noise": [0.5, 2.0],
}

EVALUATIONS: tuple[dict[str, Any], ...] = (
    {"name": "robustness", "params": FEW_SHIFTS},
    {"name": "prune_potential", "params": FEW_SHIFTS},
    {"name": "noise_similarity", "params": {"levels": [0.0, 0.7], "draws": 3, "images": 10}},
    {"name": "informative_features", "params": {"images": 2}},
)

TWO_CRITERIA: dict[str, Any] = {"criterion": ({"name": "magnitude"}, {"name": "random"})}


def draw_slow_noise(split: Split, *key: Any) -> Tensor:
    """Uniform noise for each image by itself, keyed by its index in the dataset."""
    seed, *names, level = key
    return torch.cat(
        [
            Draws.from_key(seed, *names, repr(level), indices=index[None]).signed(
                *split.images.shape[1:]
            )
            for index in split.dataset_indices
        ]
    )


def find_slow_errors(record: JobRecord, model: nn.Module, shift: Shift, images: int) -> list[bool]:
    """Whether a network errs on each image, one image after the other: on all of the nominal ones,
    on a sample of the others.
    """
    split = draw_sample(record, len(record.data.test) if shift == Shift() else images)
    inputs = record.data.normalize(split.images)
    if shift.corruption is not None:
        inputs = record.data.normalize(
            torch.cat(
                [
                    corrupt(
                        split.images[i : i + 1],
                        shift.corruption,
                        shift.severity,
                        indices=split.dataset_indices[i : i + 1],
                        seed=record.seed,
                    )
                    for i in range(len(split))
                ]
            )
        )
    elif shift.noise:
        inputs = inputs + shift.noise * draw_slow_noise(split, record.seed, "noise", 0, shift.noise)
    with torch.no_grad():
        return [
            int(model(image[None]).argmax()) != int(label)
            for image, label in zip(inputs, split.labels, strict=True)
        ]
