"""The machine that a job ran on, and how long it took there."""

from __future__ import annotations

from pruning.schemas.base import Document


class Environment(Document):
    """The machine and the software that the numbers were measured on."""

    device: str
    device_name: str
    threads: int
    eval_batch: int
    torch: str
    python: str
    secateur: str
    platform: str
    precision: str | None = None
    """The precision of retraining and the reason for it, where the job left that open; errors are
    measured in fp32 either way.
    """


class Timing(Document):
    """The time that a job took from its start to its report, in one go."""

    device: str
    device_name: str
    threads: int
    flops: float
    """The FLOPs that the job was estimated at."""
    image_flops: int
    """The FLOPs of one image through its dense network."""
    seconds: float
