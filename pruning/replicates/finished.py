"""The replicates that have succeeded: their reports, and the errors of their networks on each
image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from pruning.errors import DataError
from pruning.measurement.image_errors import ImageErrors
from pruning.replicates.plan import Run
from pruning.schemas.report import Checkpoint, Report

FEWEST = 2
"""The number of replicates from which on there is something to pool."""


@dataclass(frozen=True)
class Finished:
    """A replicate that has succeeded."""

    run: Run
    report: Report
    images: ImageErrors

    @cached_property
    def checkpoints(self) -> dict[str, Checkpoint]:
        """The checkpoints by id."""
        return {checkpoint.id: checkpoint for checkpoint in self.report.checkpoints}

    @property
    def seed(self) -> int:
        """The seed of the replicate."""
        return self.run.member.seed


def read_finished(folder: Path, runs: Sequence[Run]) -> list[Finished]:
    """Read the replicates that have succeeded from the files `<job>.json` and `<job>.images`, by
    seed.

    Raises `DataError` where two of them do not see the same images.
    """
    finished = [
        Finished(
            run=run,
            report=Report.model_validate_json((folder / f"{run.job}.json").read_bytes()),
            images=ImageErrors.load(folder / f"{run.job}.images"),
        )
        for run in sorted(runs, key=lambda run: run.member.seed)
        if run.status == "succeeded"
    ]
    for other in finished[1:]:
        if not other.images.sees_as(finished[0].images):
            raise DataError(
                f"the replicates {finished[0].run.job} and {other.run.job} do not see the same "
                "images"
            )
    return finished


def stack_errors(
    finished: Sequence[Finished], names: Sequence[str], *, validation: bool = False
) -> Tensor:
    """The errors of a network of each replicate, by its name there, on the test (or validation)
    images, (replicates, images).
    """
    rows = []
    for replicate, name in zip(finished, names, strict=True):
        images = replicate.images
        rows.append(images.val_wrong[name] if validation else images.wrong[name])
    return torch.stack(rows)
