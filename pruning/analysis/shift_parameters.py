"""The parameters of evaluations under shift: which shifts, and on how many images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from pruning import wording
from pruning.analysis.job_record import JobRecord
from pruning.analysis.job_size import JobSize
from pruning.analysis.shifts import Reference, Shift, draw_sample
from pruning.data.corruptions import corruptions
from pruning.measurement.costs import count_flops

WORK = 2_000_000_000
"""Multiply-adds of one network on one shift where the recipe leaves the number of images open; the
same for all evaluations.
"""
CORRUPTING = 2000
"""Multiply-adds that take about as long as corrupting one value of an image, on average."""
FEWEST, MOST = 100, 1000
"""The limits of the number of images by default."""


def _list_names(schema: dict[str, Any]) -> None:
    """List the names in the catalogue, so that a wrong one is refused with the job."""
    schema["enum"] = corruptions.names()


Corruption = Annotated[str, Field(json_schema_extra=_list_names)]


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
    against: Annotated[
        Reference,
        Field(
            description=(
                "the dense network that checkpoints are compared with: the control that was "
                "retrained as each was, or the network as given, as in the paper"
            )
        ),
    ] = "control"

    def __post_init__(self) -> None:
        for name in self.corruptions or ():
            corruptions.get(name)

    @property
    def reference(self) -> str:
        """The dense network that checkpoints are compared with, in words."""
        return "the dense control" if self.against == "control" else "the network as given"

    def applies(self, record: JobRecord) -> bool:
        """Whether the job has a checkpoint, and images that can be corrupted."""
        has_checkpoint = any(round_record.target is not None for round_record in record.rounds)
        return has_checkpoint and record.data.shape[0] in (1, 3)

    def shifts(self, record: JobRecord) -> list[Shift]:
        """The shifts that the parameters name and the shifted sets of the data, each once."""
        names = self._corruption_names()
        shifts = [Shift(name, severity) for name in names for severity in self.severities]
        shifts += [Shift(dataset=name) for name in record.data.shifted]
        shifts += [Shift(noise=level) for level in self.noise]
        return list(dict.fromkeys(shifts))

    def _corruption_names(self) -> Sequence[str]:
        """The names of the corruptions, all of them by default."""
        return corruptions.names() if self.corruptions is None else self.corruptions

    def count(self, record: JobRecord) -> int:
        """The number of test images of each distribution that has as many."""
        if self.images:
            return self.images
        flops = count_flops(record.dense(), record.data.shape, None)
        return _choose_image_count(max(1, flops // 2))

    def units(self, size: JobSize) -> int:
        """The images of every corruption, made once, and every network on every distribution."""
        count = self.images or _choose_image_count(size.macs)
        corrupted = len(self._corruption_names()) * len(self.severities)
        own = min(count, size.images["test"])
        other_sets = sum(min(count, test) for _, test in size.shifted.values())
        images = own * (1 + corrupted + len(self.noise)) + other_sets
        making = corrupted * own * CORRUPTING * size.values // size.macs
        controls = size.controls if self.against == "control" else 0
        return images * (1 + controls + size.checkpoints) + making

    def describe(self, record: JobRecord, shifts: list[Shift]) -> str:
        """The shifts and the numbers of images, in words."""
        count = self.count(record)
        kept = ""
        if record.cache is not None:
            kept = (
                " Corrupted images are kept for later jobs: "
                f"{wording.file_size(record.cache.size_bytes)} of at most "
                f"{wording.file_size(record.cache.limit_bytes)} on this worker's disk."
            )
        sets = ""
        for shift in shifts:
            if shift.dataset is not None:
                images = len(draw_sample(record, count, shift.dataset))
                sets += (
                    f" The shifted set {shift.name} has {wording.count_of(images, 'image')} here."
                )
        own_images = min(count, len(record.data.test))
        return (
            f"{wording.count_of(len(shifts), 'shift')}, at "
            f"{wording.count_of(own_images, 'test image')}: "
            f"{', '.join(shift.name for shift in shifts)}.{sets}{kept}"
        )

    def describe_references(self, record: JobRecord) -> list[str]:
        """The dense networks that checkpoints are compared with, where there is not one control."""
        if self.against == "given":
            return ["Checkpoints are compared with the network as given, as in the paper."]
        if len(record.controls) == 1:
            return []
        return [
            "Each checkpoint is compared with the dense control that was retrained as often as it: "
            f"{', '.join(control.name for control in record.controls)}."
        ]


def _choose_image_count(macs: int) -> int:
    """The number of images by default, fewer for a network of many multiply-adds."""
    return min(MOST, max(FEWEST, WORK // macs))
