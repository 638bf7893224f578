"""Which shifts an evaluation looks at: parameters that several evaluations share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from pruning import wording as q
from pruning.analysis.job_record import JobRecord
from pruning.analysis.job_size import JobSize
from pruning.analysis.shifts import Shift, draw_sample
from pruning.data.corruptions import corruptions
from pruning.measurement.costs import count_flops

WORK = 2_000_000_000
"""Multiply-adds of one network on one shift, where the recipe does not say how many images: the
same for all evaluations.
"""
CORRUPTING = 2000
"""Multiply-adds that take as long as corrupting one value of an image, about, over all corruptions.
"""
FEWEST, MOST = 100, 1000
"""Images by default."""


def _known(schema: dict[str, Any]) -> None:
    """The catalogue lists the names, so that a wrong one is refused with the job."""
    schema["enum"] = corruptions.names()


Corruption = Annotated[str, Field(json_schema_extra=_known)]


@dataclass(frozen=True)
class ShiftParameters:
    """Corruptions by severity, and levels of noise; `null` corruptions are all of them.

    The shifted sets of the job's dataset are looked at too.
    """

    corruptions: tuple[Corruption, ...] | None = None
    severities: Annotated[tuple[Annotated[int, Field(ge=1, le=5)], ...], Field(min_length=1)] = (3,)
    noise: tuple[Annotated[float, Field(gt=0, le=100)], ...] = ()
    images: Annotated[
        int | None,
        Field(ge=1, description="test images; by default 1,000, fewer for a large network"),
    ] = None

    def __post_init__(self) -> None:
        for name in self.corruptions or ():
            corruptions.get(name)

    def applies(self, trial: JobRecord) -> bool:
        """With a checkpoint, and images that can be corrupted."""
        return any(one.target is not None for one in trial.rounds) and trial.data.shape[0] in (1, 3)

    def shifts(self, trial: JobRecord) -> list[Shift]:
        """Those asked for, each once."""
        names = corruptions.names() if self.corruptions is None else self.corruptions
        found = [Shift(name, severity) for name in names for severity in self.severities]
        found += [Shift(dataset=name) for name in trial.data.shifted]
        found += [Shift(noise=level) for level in self.noise]
        return list(dict.fromkeys(found))

    def count(self, trial: JobRecord) -> int:
        """How many test images of each distribution, where there are so many."""
        return self.images or _images(
            max(1, count_flops(trial.dense(), trial.data.shape, None) // 2)
        )

    def units(self, scale: JobSize) -> int:
        """Making the images of every corruption, and every network on every distribution."""
        count = self.images or _images(scale.macs)
        names = len(corruptions.names() if self.corruptions is None else self.corruptions) * len(
            self.severities
        )
        own = min(count, scale.images["test"])
        seen = own * (1 + names + len(self.noise)) + sum(
            min(count, test) for _, test in scale.shifted.values()
        )
        return seen * scale.networks + names * own * CORRUPTING * scale.values // scale.macs

    def describe(self, trial: JobRecord, shifts: list[Shift]) -> str:
        """What was looked at, in words."""
        count = self.count(trial)
        kept = (
            ""
            if trial.cache is None
            else (
                " Corrupted images are kept for later jobs: "
                f"{q.file_size(trial.cache.size_bytes)} of at most "
                f"{q.file_size(trial.cache.limit_bytes)} on this worker's disk."
            )
        )
        sets = "".join(
            f" The shifted set {shift.name} has "
            f"{q.count_of(len(draw_sample(trial, count, shift.dataset)), 'image')} "
            "here."
            for shift in shifts
            if shift.dataset is not None
        )
        return (
            f"{q.count_of(len(shifts), 'shift')}, at "
            f"{q.count_of(min(count, len(trial.data.test)), 'test image')}: "
            f"{', '.join(shift.name for shift in shifts)}.{sets}{kept}"
        )


def _images(macs: int) -> int:
    """How many by default."""
    return min(MOST, max(FEWEST, WORK // macs))
