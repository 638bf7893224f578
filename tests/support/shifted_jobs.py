"""Parameters of evaluations under shift, and errors under shift image by image."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pruning.analysis.job_record import JobRecord
from pruning.analysis.shifts import (
    Shift,
    draw_sample,
)
from pruning.data.corrupted import corrupt
from pruning.seeding import generator

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


def find_slow_errors(record: JobRecord, model: nn.Module, shift: Shift, images: int) -> list[bool]:
    """Whether a network errs on each image, one image after the other."""
    split = draw_sample(record, images)
    inputs = record.data.normalize(split.images)
    if shift.corruption is not None:
        inputs = record.data.normalize(
            torch.cat(
                [
                    corrupt(
                        split.images[i : i + 1],
                        shift.corruption,
                        shift.severity,
                        indices=torch.tensor([i]),
                        seed=record.seed,
                    )
                    for i in range(len(split))
                ]
            )
        )
    elif shift.noise:
        uniform = torch.rand(
            inputs.shape, generator=generator(record.seed, "noise", repr(shift.noise))
        )
        inputs = inputs + shift.noise * (2 * uniform - 1)
    with torch.no_grad():
        return [
            int(model(image[None]).argmax()) != int(label)
            for image, label in zip(inputs, split.labels, strict=True)
        ]
