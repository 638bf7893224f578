"""The time that a job should take, on the wire."""

from __future__ import annotations

from pydantic import BaseModel


class WallTime(BaseModel):
    """The seconds that a job should take on a kind of machine, from those of comparable jobs in
    proportion to their FLOPs.
    """

    device: str
    device_name: str
    jobs: int
    """The number of earlier jobs that were compared."""
    same_network: bool
    """Whether these had networks of as many FLOPs for each image; else they are those whose FLOPs
    are nearest.
    """
    p50_s: float
    """The median."""
    p90_s: float | None
    """The time that nine in ten jobs like these do not exceed; `null` with fewer than nine."""
