"""The cost of pruning under shift: error by distribution, excess error, and its growth with the
prune ratio.

Source: Liebenwein, Baykal, Carter, Gifford and Rus, Lost in pruning: the effects of pruning neural
networks beyond test accuracy, MLSys 2021.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from pruning import wording
from pruning.analysis.job_record import JobRecord
from pruning.analysis.job_size import JobSize
from pruning.analysis.prune_potential import compute_prune_ratios
from pruning.analysis.shift_errors import ShiftErrors
from pruning.analysis.shift_parameters import ShiftParameters
from pruning.analysis.shifts import Shift, draw_sample
from pruning.data.corrupted import corrupt
from pruning.errors import ParameterError
from pruning.evaluations import evaluations
from pruning.measurement.bootstrap import Line
from pruning.measurement.trend import FEWEST_POINTS, fit_growth, measure_slope
from pruning.reporting.pictures import arrange_pixels, draw_grid
from pruning.schemas.job import NOMINAL
from pruning.schemas.report import Curve, Estimate, Picture, Section, Unit
from pruning.seeding import generator

NONE = (
    "no shift to look at: name corruptions that change the images, levels of noise, or shifted "
    "sets of the dataset"
)
BROKEN = 0.1
"""A nominal error increase beyond which excess errors say little."""
RATIO = "prune ratio, of all parameters"
DELTA = "delta excess error"
JPEG = "jpeg_compression"
GROWTH = "growth"
LABELS = {
    "delta_excess_error": "delta excess error, mean over the checkpoints",
    "delta_excess_error_slope": "delta excess error at a prune ratio of 100 %, by the paper's line "
    "through the origin",
    "delta_excess_error_growth": "growth of the delta excess error with the prune ratio, by a line "
    "with intercept, for 100 %",
    "nominal": "nominal",
    "shifted": "under shift",
    "excess": "excess error",
    "delta_excess": "measured",
    "line": "the paper's line through the origin",
}
"""The words of the names of scalars and curves."""
"""The table of slopes that replicates are pooled from."""
NOTES = (
    "Excess error is the mean error over the shifts less the nominal one, of one network; delta "
    "excess error is that of a pruned network less that of {reference}: what pruning costs "
    "beyond test accuracy. Corruptions that the job trains on count with the nominal images, as "
    "in the paper's robust runs, where others are looked at too.",
    "Intervals are 95 % bootstrap intervals over the test images, the same resamples for all "
    "networks, and exact for the error on one distribution.",
    "The paper's line has no intercept: it measures the level of the delta excess error, and its "
    "band is over resampled checkpoints and images. Growth is the slope of a line with intercept; "
    "its interval is for other images, and allows for checkpoints that come from one another. It "
    "is of this run: another run of the method has other checkpoints.",
    "The paper whose findings are looked for: Liebenwein et al., Lost in Pruning, 2021.",
)
OF_PIXELS = (
    "Intervals are 95 % bootstrap intervals over the test images, the same resamples for all "
    "networks, and Student's for the error on one distribution, the mean over images of 1 - mean "
    "IoU."
)


@evaluations.register("robustness")
@dataclass(frozen=True)
class Robustness(ShiftParameters):
    """Error of every checkpoint under every shift, and excess error against the prune ratio.

    e = mean over shifts of the error, less the nominal error; delta e = e(pruned) - e(dense), with
    its least-squares line through the origin over PR, and its growth with PR where there are at
    least 4 ratios. The dense network is the control that was retrained as the pruned one was, or
    with `against` the network as given.
    """

    version: ClassVar[int] = 4
    asks_about_shifts: ClassVar[bool] = True
    supports_segmentation: ClassVar[bool] = True

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
        shifts, unchanged = self.select_shifts(record)
        if not shifts:
            raise ParameterError(NONE)
        errors = ShiftErrors.measure(
            record,
            shifts,
            self.count,
            seed_names=("robustness", "images"),
            against=self.against,
        )
        curves: dict[str, Curve] = {}
        targets = [row for row in record.rounds if row.target is not None]
        dense = [name for name in errors.networks if name not in {row.id for row in targets}]
        scalars = {f"excess_error/{name}": errors.excess(name) for name in dense}
        notes: list[str] = []
        growth: list[dict[str, Any]] = []
        prune_ratios = compute_prune_ratios(record)
        for label, ratios in prune_ratios.items():
            curves |= _draw_curves(label, ratios, errors)
            growth += _tabulate_growth(label, ratios, errors)
            lines, values, note = _summarise_delta(label, ratios, errors, record.seed)
            curves |= lines
            scalars |= values
            notes.append(note + _describe_broken(errors, ratios))
        return Section(
            title="Error under shift",
            version=self.version,
            curves=curves,
            scalars=scalars,
            details={
                "errors_by_shift": _tabulate_errors(errors),
                "excess_error": [
                    _tabulate_excess(row.id, prune_ratios[row.label][row.id], errors)
                    for row in targets
                ],
                GROWTH: growth,
            },
            hidden=(GROWTH,),
            labels=LABELS,
            units={"prune_ratio": "share"},
            pictures=_draw_examples(record, shifts),
            notes=(
                *notes,
                *_describe_extremes(errors, [row.id for row in targets], self.reference),
                *_describe_compression(errors, record.data.stored_as),
                self.describe(record, shifts, unchanged),
                *self.describe_references(record),
                NOTES[0].replace("{reference}", self.reference),
                OF_PIXELS if record.data.segmentation else NOTES[1],
                *NOTES[2:],
            ),
        )


def _draw_curves(label: str, ratios: Mapping[str, float], errors: ShiftErrors) -> dict[str, Curve]:
    """The curves of one criterion over the prune ratio."""
    x = tuple(ratios.values())

    def draw(values: Sequence[Estimate], y_label: str, y_unit: Unit) -> Curve:
        return Curve(
            x=x,
            x_label=RATIO,
            x_unit="share",
            y=tuple(values),
            y_label=y_label,
            y_unit=y_unit,
            drawn="points" if y_label == DELTA else None,
        )

    nominal = [errors.error(checkpoint, [NOMINAL]) for checkpoint in ratios]
    shifted = [errors.error(checkpoint, errors.shifted) for checkpoint in ratios]
    excess = [errors.excess(checkpoint) for checkpoint in ratios]
    delta = [errors.delta_excess(checkpoint) for checkpoint in ratios]
    return {
        f"nominal/{label}": draw(nominal, "error, nominal and under shift", "fraction"),
        f"shifted/{label}": draw(shifted, "error, nominal and under shift", "fraction"),
        f"excess/{label}": draw(excess, "excess error", "points"),
        f"delta_excess/{label}": draw(delta, DELTA, "points"),
    }


def _summarise_delta(
    label: str, ratios: Mapping[str, float], errors: ShiftErrors, seed: int
) -> tuple[dict[str, Curve], dict[str, Estimate], str]:
    """The level and the growth of the delta excess error of one criterion: the paper's line, the
    scalars, and a note.
    """
    resampled = [errors.resample_delta_excess(checkpoint) for checkpoint in ratios]
    values = [value for value, _ in resampled]
    draws = torch.stack([draws for _, draws in resampled])
    x = list(ratios.values())
    level = errors.mean_delta_excess(list(ratios))
    line = Line.fit(x, values, generator(seed, "robustness", label), draws)
    growth = fit_growth(x, values, draws, unit="points")
    curves: dict[str, Curve] = {}
    scalars = {f"delta_excess_error/{label}": level}
    if line is not None:
        curves[f"line/{label}"] = _draw_line(line)
        scalars[f"delta_excess_error_slope/{label}"] = line.slope.in_unit("points")
    if growth is not None:
        scalars[f"delta_excess_error_growth/{label}"] = growth
    note = _describe_level(label, level, line, len(ratios)) + _describe_growth(growth, x)
    return curves, scalars, note


def _tabulate_growth(
    label: str, ratios: Mapping[str, float], errors: ShiftErrors
) -> list[dict[str, Any]]:
    """The slope of the delta excess error of a criterion and its standard deviation over images,
    from which replicates are pooled; none for fewer than 4 ratios.
    """
    if len(set(ratios.values())) < FEWEST_POINTS:
        return []
    resampled = [errors.resample_delta_excess(checkpoint) for checkpoint in ratios]
    draws = torch.stack([draws for _, draws in resampled])
    values = [value for value, _ in resampled]
    slope, deviation = measure_slope(list(ratios.values()), values, draws)
    span = max(ratios.values()) - min(ratios.values())
    return [{"method": label, "slope": slope, "deviation_by_images": deviation, "span": span}]


def _draw_line(line: Line) -> Curve:
    """The line through the origin with its band."""
    return Curve(
        x=(0.0, 1.0),
        x_label=RATIO,
        x_unit="share",
        y_label=DELTA,
        y_unit="points",
        y=(line.at(0.0), line.at(1.0)),
        drawn="band",
    )


def _tabulate_errors(errors: ShiftErrors) -> list[dict[str, Any]]:
    """The table of errors, a row for each network and distribution."""
    return [
        {
            "network": network,
            "shift": shift.name,
            "error": errors.error(network, [shift.name]).model_dump(),
        }
        for network in errors.networks
        for shift in errors.distributions
    ]


def _tabulate_excess(checkpoint: str, ratio: float, errors: ShiftErrors) -> dict[str, Any]:
    """The row of a checkpoint in the table of excess errors."""
    return {
        "checkpoint": checkpoint,
        "prune_ratio": ratio,
        "nominal_error": errors.error(checkpoint, [NOMINAL]).model_dump(),
        "shifted_error": errors.error(checkpoint, errors.shifted).model_dump(),
        "excess_error": errors.excess(checkpoint).model_dump(),
        "delta_excess_error": errors.delta_excess(checkpoint).model_dump(),
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


def _describe_level(label: str, level: Estimate, line: Line | None, points: int) -> str:
    """The level of the delta excess error, in words."""
    text = (
        f"{label}: delta excess error {wording.points_with_interval(level, 2)} on average over "
        f"{wording.count_of(points, 'checkpoint')}"
    )
    if line is None:
        return f"{text}."
    text += f"; {wording.points_with_interval(line.at(1.0), 2)} for a prune ratio of 100 %"
    text += " by the paper's line through the origin"
    return f"{text} (one checkpoint has no band)." if points < 2 else f"{text}."


def _describe_growth(growth: Estimate | None, ratios: Sequence[float]) -> str:
    """The growth of the delta excess error with the prune ratio, in words: claimed only where its
    interval excludes 0.
    """
    if growth is None or growth.low is None or growth.high is None:
        return (
            " This is its level: whether it grows with the prune ratio takes "
            f"{FEWEST_POINTS} ratios or more."
        )
    if growth.low <= 0 <= growth.high:
        return " This is its level: no evidence that it grows or falls with the prune ratio."
    span = max(ratios) - min(ratios)
    change = Estimate(
        value=growth.value * span, low=growth.low * span, high=growth.high * span, unit="points"
    )
    verb = "grows, as in the paper" if growth.low > 0 else "falls, unlike in the paper"
    return (
        f" In this run it {verb}: {wording.points_with_interval(change, 2)} from the smallest to "
        "the largest prune ratio."
    )


def _describe_broken(errors: ShiftErrors, checkpoints: Collection[str]) -> str:
    """The number of checkpoints that lost too much nominally, in words; empty for none."""
    broken = sum(errors.increase(checkpoint, NOMINAL) > BROKEN for checkpoint in checkpoints)
    if not broken:
        return ""
    return (
        f" {wording.count_of(broken, 'checkpoint')} of {len(checkpoints)} lost more than "
        f"{wording.percentage_points(BROKEN, 0)} nominally: a network "
        "that has lost accuracy may have less to lose under shift."
    )


def _describe_compression(errors: ShiftErrors, stored_as: str | None) -> list[str]:
    """A caution for a dataset of JPEG files: compression is no new distribution, as its own images
    have been through it.
    """
    jpeg = [shift.name for shift in errors.distributions if shift.corruption == JPEG]
    if stored_as != "JPEG" or not jpeg:
        return []
    others = [name for name in errors.shifted if name not in jpeg]
    text = (
        f"The images of this dataset are JPEG files: {JPEG} compresses them once more, which may "
        "be a smaller change than compressing the paper's images, that were not. The network as "
        "given has an excess error of "
        f"{wording.points_with_interval(errors.excess_under('given', jpeg), 2)} under it"
    )
    if others:
        excess = wording.points_with_interval(errors.excess_under("given", others), 2)
        text += f", of {excess} on average under the other shifts"
    return [f"{text}."]


def _describe_extremes(
    errors: ShiftErrors, checkpoints: Sequence[str], reference: str
) -> list[str]:
    """The shifts under which the checkpoints lose most and least against the dense network that
    they are compared with, in words.
    """
    if not checkpoints:
        return []
    losses = [
        sum(errors.increase(checkpoint, name) for checkpoint in checkpoints) / len(checkpoints)
        for name in errors.shifted
    ]
    nominal = sum(map(errors.paired_increase, checkpoints)) / len(checkpoints)
    ordered = sorted(zip(losses, errors.shifted, strict=True), key=lambda pair: -pair[0])
    (greatest, most), (smallest, least) = ordered[0], ordered[-1]
    text = f"under {most} ({wording.percentage_points(greatest)})"
    if len(ordered) > 1:
        text = f"most {text}, least under {least} ({wording.percentage_points(smallest)})"
    return [
        f"Lost against {reference}, as measured, on average over all checkpoints: {text}; "
        f"nominally, on the images that are shifted, {wording.percentage_points(nominal)}. The "
        "order of the shifts is not tested: other images may have another."
    ]
