"""The replicates of a job in its report."""

from __future__ import annotations

from pruning.schemas.base import Document


class ReplicateRow(Document):
    """A replicate of a job: a run of it under one seed, with a report of its own."""

    job: str
    seed: int
    status: str
    remark: str = ""
    """The reason why it has no results."""
