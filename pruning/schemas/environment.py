"""The machine that the numbers of a report were measured on."""

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
