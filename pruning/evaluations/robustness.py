"""What pruning costs under shift: error by distribution, excess error, and how its excess grows
with the prune ratio.

Source: Liebenwein, Baykal, Carter, Gifford and Rus, Lost in pruning: the effects of pruning neural
networks beyond test accuracy, MLSys 2021.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from pruning import wording as q
from pruning.analysis.job_record import JobRecord, RoundRecord
from pruning.analysis.job_size import JobSize
from pruning.analysis.prune_potential import compute_prune_ratio
from pruning.analysis.shift_parameters import ShiftParameters
from pruning.analysis.shifts import (
    Shift,
    draw_sample,
    errors_under_shifts,
    find_trained_corruptions,
    group_by_images,
)
from pruning.data.corrupted import corrupt
from pruning.errors import ParameterError
from pruning.evaluations import evaluations
from pruning.masks import count_parameters
from pruning.measurement.bootstrap import Line, percentile_interval, resample_errors
from pruning.measurement.measure import estimate_error
from pruning.reporting.pictures import arrange_pixels, draw_grid
from pruning.schemas.job import NOMINAL
from pruning.schemas.report import Curve, Estimate, Picture, Section
from pruning.seeding import generator

NONE = "no shift to look at: name corruptions, levels of noise, or shifted sets of the dataset"
BROKEN = 0.1
"""A nominal error increase beyond which excess errors say little."""
NOTES = (
    "Excess error is the mean error over the shifts less the nominal one, of one network; delta "
    "excess error is that of a "
    "pruned network less that of the dense control: what pruning costs beyond test accuracy. "
    "Corruptions that the job "
    "trains on count with the nominal images, as in the paper's robust runs, where others are "
    "looked at too.",
    "Intervals are 95 % bootstrap intervals over the test images, the same resamples for all "
    "networks, and exact for the "
    "error on one distribution; the line has no intercept, and its band is that of the paper, "
    "over resampled checkpoints.",
    "The paper whose findings are looked for: Liebenwein et al., Lost in Pruning, 2021.",
)
OF_PIXELS = (
    "Intervals are 95 % bootstrap intervals over the test images, the same resamples for all "
    "networks, and "
    "Student's for the error on one distribution, the mean over images of 1 - mean IoU; the line "
    "has no intercept, "
    "and its band is that of the paper, over resampled checkpoints."
)


@evaluations.register("robustness")
@dataclass(frozen=True)
class Robustness(ShiftParameters):
    """Error of every checkpoint under every shift, excess error, and delta excess error against the
    prune ratio.

    e = mean over shifts of the error, less the nominal error; delta e = e(pruned) - e(dense
    control), with its least-squares line through the origin over PR.
    """

    version: ClassVar[int] = 1
    of_pixels: ClassVar[bool] = True

    def units(self, scale: JobSize) -> int:
        """As of all evaluations under shift; `ParameterError` where there is none to look at."""
        if self.corruptions == () and not self.noise and not scale.shifted:
            raise ParameterError(NONE)
        return super().units(scale)

    def evaluate(self, trial: JobRecord) -> Section:
        """Curves `nominal/<criterion>`, `shifted/...`, `excess/...`, `delta_excess/...`,
        `line/...`; errors by shift.
        """
        shifts = self.shifts(trial)
        if not shifts:
            raise ParameterError(NONE)
        found = errors_under_shifts(trial, [Shift(), *shifts], self.count(trial))
        targets = [one for one in trial.rounds if one.target is not None]
        table = _Table(found, shifts, trial)
        parameters = count_parameters(trial.dense())
        ratios = {one.id: compute_prune_ratio(one, parameters) for one in targets}
        curves: dict[str, Curve] = {}
        scalars: dict[str, Estimate] = {
            "excess_error/control": table.excess("control"),
            "excess_error/given": table.excess("given"),
        }
        notes: list[str] = []
        for label in dict.fromkeys(one.label for one in targets):
            mine = sorted(
                (one for one in targets if one.label == label), key=lambda one: ratios[one.id]
            )
            curves |= self._curves(label, mine, ratios, table)
            line = Line.fit(
                [ratios[one.id] for one in mine],
                [table.delta(one.id).value for one in mine],
                generator(trial.seed, "robustness", label),
            )
            if line is None:
                continue
            scalars[f"delta_excess_error_slope/{label}"] = line.slope
            curves[f"line/{label}"] = Curve(
                x=(0.0, 1.0),
                x_label=RATIO,
                y_label=DELTA,
                y=(line.at(0.0), line.at(1.0)),
                drawn="band",
            )
            lost = sum(table.increase(one.id, NOMINAL) > BROKEN for one in mine)
            notes.append(
                _grows(label, line, len(mine))
                + (
                    f" {q.count_of(lost, 'checkpoint')} of {len(mine)} lost more than "
                    f"{q.percentage_points(BROKEN, 0)} nominally: a network "
                    "without accuracy has none to lose under shift."
                    if lost
                    else ""
                )
            )
        return Section(
            title="Error under shift",
            version=self.version,
            curves=curves,
            scalars=scalars,
            details={
                "errors_by_shift": [
                    _row(name, shift, own)
                    for name, flags in found.items()
                    for shift, own in flags.items()
                ],
                "excess_error": [table.row(one, ratios[one.id]) for one in targets],
            },
            pictures=_examples(trial, shifts),
            notes=(
                *notes,
                *_worst(table, targets),
                *_compressed(table, shifts, trial.data.stored_as),
                self.describe(trial, shifts),
                *_notes(trial),
            ),
        )

    @staticmethod
    def _curves(
        label: str, mine: Sequence[RoundRecord], ratios: Mapping[str, float], table: _Table
    ) -> dict[str, Curve]:
        x = tuple(ratios[one.id] for one in mine)

        def curve(
            y: Sequence[Estimate], y_label: str, drawn: Literal["points"] | None = None
        ) -> Curve:
            return Curve(x=x, x_label=RATIO, y=tuple(y), y_label=y_label, drawn=drawn)

        return {
            f"nominal/{label}": curve(
                [table.error(one.id, [NOMINAL]) for one in mine], "error, nominal and under shift"
            ),
            f"shifted/{label}": curve(
                [table.error(one.id, table.names) for one in mine], "error, nominal and under shift"
            ),
            f"excess/{label}": curve([table.excess(one.id) for one in mine], "excess error"),
            f"delta_excess/{label}": curve([table.delta(one.id) for one in mine], DELTA, "points"),
        }


def _notes(trial: JobRecord) -> tuple[str, ...]:
    return (NOTES[0], OF_PIXELS, NOTES[2]) if trial.data.segmentation else NOTES


RATIO = "prune ratio, of all parameters"
DELTA = "delta excess error"


class _Table:
    """Errors by network and shift, with bootstrap draws over the images."""

    def __init__(
        self, found: Mapping[str, Mapping[str, Tensor]], shifts: Sequence[Shift], trial: JobRecord
    ) -> None:
        trained = find_trained_corruptions(trial)
        self.names = [shift.name for shift in shifts if shift.corruption not in trained]
        self.own = [NOMINAL, *(shift.name for shift in shifts if shift.corruption in trained)]
        if not self.names:
            self.names, self.own = self.own[1:], [NOMINAL]
        self._wrong = found
        self._values: dict[tuple[str, str], float] = {}
        self._draws: dict[tuple[str, str], Tensor] = {}
        self.n = {name: len(flags) for name, flags in found["control"].items()}
        for dataset, names in group_by_images(shifts).items():
            keys = [(network, name) for network in found for name in names]
            flags = torch.stack([found[network][name] for network, name in keys])
            draws = resample_errors(
                flags,
                generator(
                    trial.seed, "robustness", "images", *([] if dataset is None else [dataset])
                ),
            )
            self._values |= zip(keys, flags.double().mean(1).tolist(), strict=True)
            self._draws |= zip(keys, draws, strict=True)

    def _of(self, network: str, shifts: Sequence[str]) -> tuple[float, Tensor]:
        """The mean over shifts of a network's error, and its draws."""
        count = max(1, len(shifts))
        return (
            sum(self._values[network, shift] for shift in shifts) / count,
            torch.stack([self._draws[network, shift] for shift in shifts]).mean(0),
        )

    def error(self, network: str, shifts: Sequence[str]) -> Estimate:
        if len(shifts) == 1:
            return estimate_error(self._wrong[network][shifts[0]])
        return percentile_interval(
            *self._of(network, shifts), min(self.n[shift] for shift in shifts)
        )

    def _excess(self, network: str) -> tuple[float, Tensor]:
        (a, drawn), (b, nominal) = self._of(network, self.names), self._of(network, self.own)
        return a - b, drawn - nominal

    def excess(self, network: str) -> Estimate:
        return percentile_interval(
            *self._excess(network), min(self.n[name] for name in (*self.names, *self.own))
        )

    def delta(self, network: str) -> Estimate:
        (a, drawn), (b, control) = self._excess(network), self._excess("control")
        return percentile_interval(
            a - b, drawn - control, min(self.n[name] for name in (*self.names, *self.own))
        )

    def excess_under(self, network: str, shift: str) -> float:
        return self._values[network, shift] - self._values[network, NOMINAL]

    def increase(self, network: str, shift: str) -> float:
        return self._values[network, shift] - self._values["control", shift]

    def row(self, one: RoundRecord, ratio: float) -> dict[str, Any]:
        return {
            "checkpoint": one.id,
            "prune_ratio": ratio,
            "nominal_error": self.error(one.id, [NOMINAL]).model_dump(),
            "shifted_error": self.error(one.id, self.names).model_dump(),
            "excess_error": self.excess(one.id).model_dump(),
            "delta_excess_error": self.delta(one.id).model_dump(),
        }


def _examples(trial: JobRecord, shifts: Sequence[Shift]) -> dict[str, Picture]:
    """One image under every corruption, and one of every shifted set."""
    one = draw_sample(trial, 1)
    images = [("image", one.images)] + [
        (shift.name, corrupt(one.images, shift.corruption, shift.severity, seed=trial.seed))
        for shift in shifts
        if shift.corruption is not None
    ]
    images += [
        (shift.name, draw_sample(trial, 1, shift.dataset).images)
        for shift in shifts
        if shift.dataset is not None
    ]
    tiles = [(name, arrange_pixels(image[0].cpu().numpy())) for name, image in images]
    return (
        {
            "corruptions": draw_grid(
                tiles, "A test image under every corruption, and one of every shifted set"
            )
        }
        if len(tiles) > 1
        else {}
    )


def _row(network: str, shift: str, flags: Tensor) -> dict[str, Any]:
    return {"network": network, "shift": shift, "error": estimate_error(flags).model_dump()}


def _grows(label: str, line: Line, points: int) -> str:
    slope = line.slope
    said = (
        f"{label}: delta excess error {q.points_with_interval(line.at(1.0), 2)} for a prune "
        "ratio of 100 %, by the line"
    )
    if points < 2 or slope.low is None or slope.high is None:
        return f"{said} (one checkpoint has no band)."
    if slope.low > 0:
        return f"{said}: it grows with the prune ratio, as in the paper."
    return (
        f"{said}: it falls with the prune ratio, unlike in the paper."
        if slope.high < 0
        else f"{said}: no evidence that it grows or falls with the prune ratio."
    )


JPEG = "jpeg_compression"


def _compressed(table: _Table, shifts: Sequence[Shift], stored_as: str | None) -> list[str]:
    """Of a dataset of JPEG files, compression is no new distribution: its own images have been
    through it.
    """
    jpeg = [shift.name for shift in shifts if shift.corruption == JPEG]
    if stored_as != "JPEG" or not jpeg:
        return []
    others = [name for name in table.names if name not in jpeg]
    excess = {
        name: sum(table.excess_under("control", some) for some in names) / len(names)
        for name, names in (("jpeg", jpeg), ("others", others))
        if names
    }
    beside = (
        f", of {q.percentage_points(excess['others'])} on average under the other shifts"
        if others
        else ""
    )
    return [
        f"The images of this dataset are JPEG files: {JPEG} compresses again what networks have "
        "learned in that form, "
        "and is closer to the dataset's own distribution than in the paper. The dense control "
        "has an excess error of "
        f"{q.percentage_points(excess['jpeg'])} under it{beside}."
    ]


def _worst(table: _Table, targets: Sequence[RoundRecord]) -> list[str]:
    """Under which shift the checkpoints lose most against the control."""
    if not targets or not table.names:
        return []
    mean = {
        name: sum(table.increase(one.id, name) for one in targets) / len(targets)
        for name in table.names
    }
    ordered = sorted(mean, key=lambda name: -mean[name])
    said = f"under {ordered[0]} ({q.percentage_points(mean[ordered[0]])})"
    if len(ordered) > 1:
        said = f"most {said}, least under {ordered[-1]} ({q.percentage_points(mean[ordered[-1]])})"
    nominal = sum(table.increase(one.id, NOMINAL) for one in targets) / len(targets)
    return [
        f"Lost against the dense control, over all checkpoints: {said}; nominally "
        f"{q.percentage_points(nominal)}."
    ]
