"""The time that a job takes, where one attempt does all of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from pruning.pipeline.pipeline import Pipeline
from pruning.schemas.environment import Environment, Timing


@dataclass
class Clock:
    """Measures a job from now on."""

    is_resumed: bool
    """Whether an earlier attempt did a part of the work, so that the time does not count."""
    began: float = field(default_factory=time.monotonic)

    def read(self, environment: Environment, pipeline: Pipeline) -> Timing | None:
        """The time that the whole job took; None where this attempt did not do all of it."""
        if self.is_resumed:
            return None
        return Timing(
            device=environment.device,
            device_name=environment.device_name,
            threads=environment.threads,
            flops=pipeline.ledger.total * pipeline.image_flops,
            image_flops=pipeline.image_flops,
            seconds=time.monotonic() - self.began,
        )
