"""Members of a family, and replicates of a job, on the wire."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class MemberView(BaseModel):
    """The place of a job in its family."""

    role: Literal["member", "answer"]
    """`answer` for a network that the law chose."""
    depth: float
    width: float
    fraction: float
    """The fraction of the training images."""
    seed: int
    rounds: int
    density: float
    """The density at which the pruning ends."""
    max_error: float | None = None
    """The tolerated error of an answer."""


class ReplicateView(BaseModel):
    """The place of a job among the replicates of another."""

    role: Literal["replicate"]
    seed: int
