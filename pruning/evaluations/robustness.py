"""The cost of pruning under shift: error by distribution, excess error, and its growth with the
prune ratio.

Source: Liebenwein, Baykal, Carter, Gifford and Rus, Lost in pruning: the effects of pruning neural
networks beyond test accuracy, MLSys 2021.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from pruning import wording
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
RATIO = "prune ratio, of all parameters"
DELTA = "delta excess error"
JPEG = "jpeg_compression"
NOTES = (
    "Excess error is the mean error over the shifts less the nominal one, of one network; delta "
    "excess error is that of a pruned network less that of the dense control: what pruning costs "
    "beyond test accuracy. Corruptions that the job trains on count with the nominal images, as "
    "in the paper's robust runs, where others are looked at too.",
    "Intervals are 95 % bootstrap intervals over the test images, the same resamples for all "
    "networks, and exact for the error on one distribution; the line has no intercept, and its "
    "band is that of the paper, over resampled checkpoints.",
    "The paper whose findings are looked for: Liebenwein et al., Lost in Pruning, 2021.",
)
OF_PIXELS = (
    "Intervals are 95 % bootstrap intervals over the test images, the same resamples for all "
    "networks, and Student's for the error on one distribution, the mean over images of 1 - mean "
    "IoU; the line has no intercept, and its band is that of the paper, over resampled "
    "checkpoints."
)


@evaluations.register("robustness")
@dataclass(frozen=True)
class Robustness(ShiftParameters):
    """Error of every checkpoint under every shift, and excess error against the prune ratio.

    e = mean over shifts of the error, less the nominal error; delta e = e(pruned) - e(dense
    control), with its least-squares line through the origin over PR.
    """

    version: ClassVar[int] = 1
    of_pixels: ClassVar[bool] = True

    def units(self, size: JobSize) -> int:
        """Return the forward passes on images under shift; raises `ParameterError` where there is
        no shift to look at.
        """
        if self.corruptions == () and not self.noise and not size.shifted:
            raise ParameterError(NONE)
        return super().units(size)

    def evaluate(self, record: JobRecord) -> Section:
        """Return curves `nominal/<criterion>`, `shifted/...`, `excess/...`, `delta_excess/...` and
        `line/...`, and errors by shift.
        """
        shifts = self.shifts(record)
        if not shifts:
            raise ParameterError(NONE)
        wrong = errors_under_shifts(record, [Shift(), *shifts], self.count(record))
        targets = [row for row in record.rounds if row.target is not None]
        table = _Table(wrong, shifts, record)
        parameters = count_parameters(record.dense())
        ratios = {row.id: compute_prune_ratio(row, parameters) for row in targets}
        curves: dict[str, Curve] = {}
        scalars: dict[str, Estimate] = {
            "excess_error/control": table.excess("control"),
            "excess_error/given": table.excess("given"),
        }
        notes: list[str] = []
        for label in dict.fromkeys(row.label for row in targets):
            rounds = sorted(
                (row for row in targets if row.label == label), key=lambda row: ratios[row.id]
            )
            curves |= _draw_curves(label, rounds, ratios, table)
            line = Line.fit(
                [ratios[row.id] for row in rounds],
                [table.delta(row.id).value for row in rounds],
                generator(record.seed, "robustness", label),
            )
            if line is not None:
                scalars[f"delta_excess_error_slope/{label}"] = line.slope
                curves[f"line/{label}"] = _draw_line(line)
                sentence = _describe_line(label, line, len(rounds))
                notes.append(sentence + _describe_broken(table, rounds))
        return Section(
            title="Error under shift",
            version=self.version,
            curves=curves,
            scalars=scalars,
            details={
                "errors_by_shift": _tabulate(wrong),
                "excess_error": [table.row(row, ratios[row.id]) for row in targets],
            },
            pictures=_draw_examples(record, shifts),
            notes=(
                *notes,
                *_describe_extremes(table, targets),
                *_describe_compression(table, shifts, record.data.stored_as),
                self.describe(record, shifts),
                NOTES[0],
                OF_PIXELS if record.data.segmentation else NOTES[1],
                NOTES[2],
            ),
        )


def _draw_curves(
    label: str, rounds: Sequence[RoundRecord], ratios: Mapping[str, float], table: _Table
) -> dict[str, Curve]:
    """The curves of one criterion over the prune ratio."""
    ids = [row.id for row in rounds]
    x = tuple(ratios[network] for network in ids)

    def draw(
        values: Sequence[Estimate], y_label: str, drawn: Literal["points"] | None = None
    ) -> Curve:
        return Curve(x=x, x_label=RATIO, y=tuple(values), y_label=y_label, drawn=drawn)

    nominal = [table.error(network, [NOMINAL]) for network in ids]
    shifted = [table.error(network, table.names) for network in ids]
    return {
        f"nominal/{label}": draw(nominal, "error, nominal and under shift"),
        f"shifted/{label}": draw(shifted, "error, nominal and under shift"),
        f"excess/{label}": draw([table.excess(network) for network in ids], "excess error"),
        f"delta_excess/{label}": draw([table.delta(network) for network in ids], DELTA, "points"),
    }


def _draw_line(line: Line) -> Curve:
    """The line through the origin with its band."""
    return Curve(
        x=(0.0, 1.0),
        x_label=RATIO,
        y_label=DELTA,
        y=(line.at(0.0), line.at(1.0)),
        drawn="band",
    )


def _tabulate(wrong: Mapping[str, Mapping[str, Tensor]]) -> list[dict[str, Any]]:
    """The table of errors, a row for each network and shift."""
    return [
        {"network": network, "shift": shift, "error": estimate_error(flags).model_dump()}
        for network, by_shift in wrong.items()
        for shift, flags in by_shift.items()
    ]


class _Table:
    """The errors by network and shift, with bootstrap draws over the images."""

    def __init__(
        self, wrong: Mapping[str, Mapping[str, Tensor]], shifts: Sequence[Shift], record: JobRecord
    ) -> None:
        trained = find_trained_corruptions(record)
        self.names = [shift.name for shift in shifts if shift.corruption not in trained]
        """The shifts that count as such."""
        self.own = [NOMINAL, *(shift.name for shift in shifts if shift.corruption in trained)]
        """The distributions that the job trains on."""
        if not self.names:
            self.names, self.own = self.own[1:], [NOMINAL]
        self._wrong = wrong
        self._errors: dict[tuple[str, str], float] = {}
        self._draws: dict[tuple[str, str], Tensor] = {}
        self.n = {name: len(flags) for name, flags in wrong["control"].items()}
        for dataset, names in group_by_images(shifts).items():
            # All networks and shifts of the same images take one set of resamples: pairs count.
            seed = [] if dataset is None else [dataset]
            keys = [(network, name) for network in wrong for name in names]
            flags = torch.stack([wrong[network][name] for network, name in keys])
            draws = resample_errors(flags, generator(record.seed, "robustness", "images", *seed))
            self._errors |= zip(keys, flags.double().mean(1).tolist(), strict=True)
            self._draws |= zip(keys, draws, strict=True)

    @property
    def _fewest(self) -> int:
        """The smallest number of images among all distributions."""
        return min(self.n[name] for name in (*self.names, *self.own))

    def _average(self, network: str, shifts: Sequence[str]) -> tuple[float, Tensor]:
        """The mean over shifts of a network's error, and its draws."""
        count = max(1, len(shifts))
        return (
            sum(self._errors[network, shift] for shift in shifts) / count,
            torch.stack([self._draws[network, shift] for shift in shifts]).mean(0),
        )

    def error(self, network: str, shifts: Sequence[str]) -> Estimate:
        """The mean over shifts of a network's error."""
        if len(shifts) == 1:
            return estimate_error(self._wrong[network][shifts[0]])
        fewest = min(self.n[shift] for shift in shifts)
        return percentile_interval(*self._average(network, shifts), fewest)

    def _subtract_own(self, network: str) -> tuple[float, Tensor]:
        """The excess error of a network, and its draws."""
        shifted, shifted_draws = self._average(network, self.names)
        own, own_draws = self._average(network, self.own)
        return shifted - own, shifted_draws - own_draws

    def excess(self, network: str) -> Estimate:
        """The excess error of a network."""
        return percentile_interval(*self._subtract_own(network), self._fewest)

    def delta(self, network: str) -> Estimate:
        """The excess error of a network less that of the dense control."""
        excess, draws = self._subtract_own(network)
        control, control_draws = self._subtract_own("control")
        return percentile_interval(excess - control, draws - control_draws, self._fewest)

    def excess_under(self, network: str, shift: str) -> float:
        """The error of a network under a shift less its nominal one."""
        return self._errors[network, shift] - self._errors[network, NOMINAL]

    def increase(self, network: str, shift: str) -> float:
        """The error of a network under a shift less that of the dense control."""
        return self._errors[network, shift] - self._errors["control", shift]

    def row(self, round_record: RoundRecord, ratio: float) -> dict[str, Any]:
        """The row of a checkpoint in the table of excess errors."""
        network = round_record.id
        return {
            "checkpoint": network,
            "prune_ratio": ratio,
            "nominal_error": self.error(network, [NOMINAL]).model_dump(),
            "shifted_error": self.error(network, self.names).model_dump(),
            "excess_error": self.excess(network).model_dump(),
            "delta_excess_error": self.delta(network).model_dump(),
        }


def _draw_examples(record: JobRecord, shifts: Sequence[Shift]) -> dict[str, Picture]:
    """A picture of one image under every corruption, and of one of every shifted set."""
    sample = draw_sample(record, 1).images
    images = [("image", sample)]
    images += [
        (shift.name, corrupt(sample, shift.corruption, shift.severity, seed=record.seed))
        for shift in shifts
        if shift.corruption is not None
    ]
    images += [
        (shift.name, draw_sample(record, 1, shift.dataset).images)
        for shift in shifts
        if shift.dataset is not None
    ]
    tiles = [(name, arrange_pixels(image[0].cpu().numpy())) for name, image in images]
    if len(tiles) == 1:
        return {}
    caption = "A test image under every corruption, and one of every shifted set"
    return {"corruptions": draw_grid(tiles, caption)}


def _describe_line(label: str, line: Line, points: int) -> str:
    """The growth of the delta excess error with the prune ratio, in words."""
    slope = line.slope
    text = (
        f"{label}: delta excess error {wording.points_with_interval(line.at(1.0), 2)} for a prune "
        "ratio of 100 %, by the line"
    )
    if points < 2 or slope.low is None or slope.high is None:
        return f"{text} (one checkpoint has no band)."
    if slope.low > 0:
        return f"{text}: it grows with the prune ratio, as in the paper."
    if slope.high < 0:
        return f"{text}: it falls with the prune ratio, unlike in the paper."
    return f"{text}: no evidence that it grows or falls with the prune ratio."


def _describe_broken(table: _Table, rounds: Sequence[RoundRecord]) -> str:
    """The number of checkpoints that lost too much nominally, in words; empty for none."""
    broken = sum(table.increase(row.id, NOMINAL) > BROKEN for row in rounds)
    if not broken:
        return ""
    return (
        f" {wording.count_of(broken, 'checkpoint')} of {len(rounds)} lost more than "
        f"{wording.percentage_points(BROKEN, 0)} nominally: a network "
        "without accuracy has none to lose under shift."
    )


def _describe_compression(
    table: _Table, shifts: Sequence[Shift], stored_as: str | None
) -> list[str]:
    """A caution for a dataset of JPEG files: compression is no new distribution, as its own images
    have been through it.
    """
    jpeg = [shift.name for shift in shifts if shift.corruption == JPEG]
    if stored_as != "JPEG" or not jpeg:
        return []
    others = [name for name in table.names if name not in jpeg]
    text = (
        f"The images of this dataset are JPEG files: {JPEG} compresses again what networks have "
        "learned in that form, and is closer to the dataset's own distribution than in the paper. "
        "The dense control has an excess error of "
        f"{wording.percentage_points(_average_excess(table, jpeg))} under it"
    )
    if others:
        excess = wording.percentage_points(_average_excess(table, others))
        text += f", of {excess} on average under the other shifts"
    return [f"{text}."]


def _average_excess(table: _Table, shifts: Sequence[str]) -> float:
    """The mean over shifts of the dense control's excess error."""
    return sum(table.excess_under("control", shift) for shift in shifts) / len(shifts)


def _describe_extremes(table: _Table, targets: Sequence[RoundRecord]) -> list[str]:
    """The shifts under which the checkpoints lose most and least against the control, in words."""
    if not targets or not table.names:
        return []
    losses = {
        name: sum(table.increase(row.id, name) for row in targets) / len(targets)
        for name in table.names
    }
    ordered = sorted(losses, key=lambda name: -losses[name])
    most, least = ordered[0], ordered[-1]
    text = f"under {most} ({wording.percentage_points(losses[most])})"
    if len(ordered) > 1:
        text = f"most {text}, least under {least} ({wording.percentage_points(losses[least])})"
    nominal = sum(table.increase(row.id, NOMINAL) for row in targets) / len(targets)
    return [
        f"Lost against the dense control, over all checkpoints: {text}; nominally "
        f"{wording.percentage_points(nominal)}."
    ]
