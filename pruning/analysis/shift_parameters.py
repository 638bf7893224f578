"""The parameters of evaluations under shift: which shifts, and on how many images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field

from pruning import wording
from pruning.analysis.job_record import JobRecord
from pruning.analysis.job_size import JobSize
from pruning.analysis.noise import NoiseUnit, scale_noise
from pruning.analysis.shifts import Reference, Shift, changes_images, draw_positions
from pruning.data.corruptions import corruptions, list_standard_corruptions
from pruning.data.tensors import Data

CORRUPTING = 2000
"""Multiply-adds that take about as long as corrupting one value of an image, on average."""
IMAGES = 1000
"""The number of images under each shift by default, or all where there are fewer."""


def _list_names(schema: dict[str, Any]) -> None:
    """List the names in the catalogue, so that a wrong one is refused with the job."""
    schema["enum"] = corruptions.names()


Corruption = Annotated[str, Field(json_schema_extra=_list_names)]


@dataclass(frozen=True)
class ShiftParameters:
    """Corruptions by severity, and levels of noise; `null` corruptions are the 19 common ones.

    The shifted sets of the job's dataset are looked at too, and the nominal images, all of them.
    """

    corruptions: tuple[Corruption, ...] | None = None
    severities: Annotated[tuple[Annotated[int, Field(ge=1, le=5)], ...], Field(min_length=1)] = (3,)
    noise: tuple[Annotated[float, Field(gt=0, le=100)], ...] = ()
    images: Annotated[
        int | None, Field(ge=1, description="test images under each shift; by default 1,000")
    ] = None
    noise_unit: Annotated[
        NoiseUnit,
        Field(
            description="what a level of noise counts: standard deviations of the job's data, or "
            "those that the paper normalises with (CIFAR: .2023, .1994, .2010)"
        ),
    ] = "data"
    noise_draws: Annotated[
        int, Field(ge=1, le=1000, description="draws of the noise; the paper has 100")
    ] = 1
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
        return self.list_shifts(record.data.shifted)

    def list_shifts(self, shifted_sets: Iterable[str]) -> list[Shift]:
        """The same of a job whose data have these shifted sets."""
        names = self._corruption_names()
        shifts = [Shift(name, severity) for name in names for severity in self.severities]
        shifts += [Shift(dataset=name) for name in shifted_sets]
        shifts += [
            Shift(noise=level, noise_unit=self.noise_unit, noise_draws=self.noise_draws)
            for level in self.noise
        ]
        return list(dict.fromkeys(shifts))

    def select_shifts(self, record: JobRecord) -> tuple[list[Shift], list[str]]:
        """The shifts that change some image of the sample, and the names of the others: one that
        changes none, as `saturate` of grey images, is the nominal distribution by another name, and
        no mean counts it.
        """
        named = self.shifts(record)
        changing = [shift for shift in named if changes_images(record, shift, self.count)]
        return changing, [shift.name for shift in named if shift not in changing]

    def _corruption_names(self) -> Sequence[str]:
        """The names of the corruptions, the common ones by default."""
        return list_standard_corruptions() if self.corruptions is None else self.corruptions

    @property
    def count(self) -> int:
        """The number of images under each shift that has as many."""
        return self.images or IMAGES

    def units(self, size: JobSize) -> int:
        """The images of every corruption, made once, and every network on every shift; the nominal
        images cost nothing, as the job has measured all networks on them.
        """
        corrupted = len(self._corruption_names()) * len(self.severities)
        own = min(self.count, size.images["test"])
        other_sets = sum(min(self.count, test) for _, test in size.shifted.values())
        images = own * (corrupted + len(self.noise) * self.noise_draws) + other_sets
        making = corrupted * own * CORRUPTING * size.values // size.macs
        controls = size.controls if self.against == "control" else 0
        return images * (1 + controls + size.checkpoints) + making

    def describe(
        self, record: JobRecord, shifts: Sequence[Shift], unchanged: Sequence[str] = ()
    ) -> str:
        """The shifts and the numbers of images, in words, and which shifts were left out as they
        change no image.
        """
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
                images = len(draw_positions(record, self.count, shift.dataset))
                sets += (
                    f" The shifted set {shift.name} has {wording.count_of(images, 'image')} here."
                )
        left_out = ""
        if unchanged:
            left_out = (
                " Left out, as every one of these images stays as it is under it: "
                f"{', '.join(unchanged)}."
            )
        test_images = len(record.data.test)
        own_images = min(self.count, test_images)
        noise = [shift for shift in shifts if shift.noise]
        return (
            f"{wording.count_of(len(shifts), 'shift')}, at "
            f"{wording.count_of(own_images, 'test image')}: "
            f"{', '.join(shift.name for shift in shifts)}. Nominal errors are those on all "
            f"{wording.count_of(test_images, 'test image')}; what compares them with errors under "
            f"shift takes the same images.{left_out}{sets}{kept}"
            + (f" {self._describe_noise(record.data)}" if noise else "")
        )

    def _describe_noise(self, data: Data) -> str:
        """The size of noise in pixel values and in the paper's unit, and its draws, in words."""
        text = describe_noise_unit(data, self.noise_unit)
        if self.noise_draws == 1:
            return f"{text} Each image has one draw of it."
        return f"{text} Errors under it are means over {self.noise_draws:,} draws."

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


def describe_noise_unit(data: Data, unit: NoiseUnit) -> str:
    """The size of noise of level 1 in pixel values and in the unit of the paper, in words."""
    scale = scale_noise(data, unit).flatten() * torch.tensor(data.std)
    paper = float((scale_noise(data, unit) / scale_noise(data, "paper")).mean())
    sizes = ", ".join(f"{size:.4f}" for size in scale.tolist())
    return (
        f"Noise of level 1 is uniform within ±{sizes} of the range of a pixel, by channel: level "
        f"{paper:.3g} of the paper, which counts the standard deviations that it normalises with."
    )


def label_noise(unit: NoiseUnit) -> str:
    """The label of an axis over levels of noise."""
    return "noise level, normalised space" if unit == "data" else "noise level, the paper's unit"
