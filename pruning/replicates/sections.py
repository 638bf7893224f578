"""The sections of the report of replicates."""

from __future__ import annotations

from collections.abc import Sequence

from pruning.replicates.finished import Finished
from pruning.replicates.runs_section import build_runs_section
from pruning.schemas.job import JobSpec
from pruning.schemas.report import Checkpoint, Section


def build_sections(
    spec: JobSpec, finished: Sequence[Finished], checkpoints: Sequence[Checkpoint]
) -> dict[str, Section]:
    """Build the sections, those of the replicates themselves first."""
    return {"replicates": build_runs_section(finished, checkpoints)}
