"""Finished jobs with the errors of their networks on each image, for comparisons."""

from __future__ import annotations

from typing import Any

import numpy as np

from pruning.analysis.compared_jobs import ComparedJob
from pruning.schemas.recipe import Method
from pruning.schemas.report import Recommendation
from tests.support import reports

TARGETS = (0.5, 0.8)
MAGNITUDE = Method(name="magnitude")


def make_job(
    id: str,
    *,
    rates: tuple[float, ...] = (0.1, 0.2),
    images: int = 400,
    seed: int = 0,
    indices: Any = None,
    recommended: str | None = "magnitude-0.8",
    targets: tuple[float, ...] = TARGETS,
    **changes: Any,
) -> ComparedJob:
    """A job of one criterion whose checkpoints err at these rates, image by image at random."""
    generator = np.random.default_rng(seed)
    indices = np.arange(images) if indices is None else np.asarray(indices)
    names = ["given", *(f"magnitude-{target:g}" for target in targets)]
    tensors = {"indices": indices}
    for name, rate in zip(names, (0.08, *rates), strict=True):
        tensors[f"wrong/{name}"] = generator.random(len(indices)) < rate
    report = reports.realistic(
        job_id=id,
        checkpoints=tuple(
            reports.checkpoint(MAGNITUDE, target, rate, None)
            for target, rate in zip(targets, rates, strict=True)
        ),
        recommendation=Recommendation(
            checkpoint=recommended, sparsity=0.8, margin=0.02, reason="for the test"
        ),
    ).model_copy(update=changes)
    return ComparedJob(report, tensors)
