"""The largest share that can be pruned at a tolerated loss, on the nominal distribution and under
shift.

Source: Liebenwein, Baykal, Carter, Gifford and Rus, Lost in pruning: the effects of pruning neural
networks beyond test accuracy, MLSys 2021.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from pruning import wording
from pruning.analysis.job_record import JobRecord, RoundRecord
from pruning.analysis.job_size import JobSize
from pruning.analysis.prune_potential import compute_prune_ratio, find_prune_potential
from pruning.analysis.shift_parameters import ShiftParameters
from pruning.analysis.shifts import (
    Shift,
    errors_under_shifts,
    find_trained_corruptions,
    group_by_images,
)
from pruning.evaluations import evaluations
from pruning.masks import count_parameters
from pruning.measurement.bootstrap import percentile_interval, resample_errors
from pruning.schemas.job import NOMINAL
from pruning.schemas.report import Curve, Estimate, Section
from pruning.seeding import generator
from pruning.verdict.shift_guidelines import VALIDATION

MARGINS = (-0.1, -0.05, -0.02, -0.01, -0.005, -0.0025, 0.0, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1)
"""The grid of the paper's code."""
NOISE_TYPES = ("gaussian_noise", "impulse_noise", "shot_noise", "speckle_noise")
POTENTIAL = "prune potential"
BY_DISTRIBUTION = "prune potential by distribution"
UNDER_NOISE = "prune potential under noise"
NOTES = (
    "The prune potential is the largest prune ratio (fraction of all parameters) whose error is "
    "at most that of the dense control on the same distribution plus the margin; 0 where none is. "
    "Curves need not be monotone: any later success counts, as in the paper.",
    "Intervals are 95 % bootstrap intervals over the test images, the same resamples for all "
    "networks. A potential is one of the prune ratios of the job: between these nothing is known.",
    "The paper whose findings are looked for: Liebenwein et al., Lost in Pruning, 2021.",
)


@evaluations.register("prune_potential")
@dataclass(frozen=True, kw_only=True)
class PrunePotential(ShiftParameters):
    """P(margin) = max PR with error(pruned) <= error(dense control) + margin, by distribution.

    On the nominal images, under each corruption and each level of noise; mean and minimum over each
    group, with bootstrap intervals over the images.
    """

    version: ClassVar[int] = 1
    of_pixels: ClassVar[bool] = True
    noise: tuple[Annotated[float, Field(gt=0, le=100)], ...] = (0.1, 0.2, 0.3)
    margin: Annotated[
        float, Field(ge=-1, le=1, description="tolerated error above the dense control's")
    ] = 0.005
    margins: Annotated[tuple[Annotated[float, Field(ge=-1, le=1)], ...], Field(min_length=1)] = (
        MARGINS
    )

    def units(self, size: JobSize) -> int:
        """Return the forward passes on test images under shift, and those on validation images
        where the recommendation reads them.
        """
        passes = super().units(size)
        if size.recipe.shifts is not None:
            # The same work once more, with the validation images in the place of the test images.
            images = {**size.images, "test": size.images["val"]}
            shifted = {name: (0, val) for name, (val, _) in size.shifted.items()}
            passes += super().units(replace(size, images=images, shifted=shifted))
        return passes

    def evaluate(self, record: JobRecord) -> Section:
        """Return curves `margin/<group>/<criterion>` and `noise/<criterion>`, scalars
        `<group>/<criterion>`, and bars by distribution.
        """
        shifts = self.shifts(record)
        errors = errors_under_shifts(record, [Shift(), *shifts], self.count(record))
        tables = _group_by_criterion(record, errors, shifts)
        trained = find_trained_corruptions(record)
        rows: list[dict[str, Any]] = []
        curves: dict[str, Curve] = {}
        scalars: dict[str, Estimate] = {}
        notes: list[str] = []
        for label, table in tables.items():
            for shift in [Shift(), *shifts]:
                row = {
                    "method": label,
                    "distribution": shift.name,
                    "group": shift.group(trained),
                    "potential": table.estimate(shift.name, self.margin).model_dump(),
                }
                rows.append(row)
            for group, how, name in _list_summaries(table):
                names = table.groups[group]
                key = f"prune_potential_{name.replace(' ', '_')}/{label}"
                scalars[key] = table.summarise(names, self.margin, how)
                curves[f"margin/{name}/{label}"] = self._draw_margins(table, names, how, name)
            curves |= self._draw_distributions(label, table, shifts)
            notes += self._describe(label, table)
        details = {"potential_by_distribution": rows}
        if record.recipe.shifts is not None:
            validation = self._measure_validation(record, shifts)
            if validation:
                details[VALIDATION] = validation
        return Section(
            title="Prune potential",
            version=self.version,
            curves=curves,
            scalars=scalars,
            details=details,
            notes=(*notes, self.describe(record, shifts), *NOTES),
        )

    def _draw_margins(self, table: _Potentials, names: Sequence[str], how: str, name: str) -> Curve:
        """The potential of a group of distributions over the margin."""
        return Curve(
            x=self.margins,
            x_label="margin: error tolerated above the dense control's",
            y_label=f"{POTENTIAL}, {name}",
            y=tuple(table.summarise(names, margin, how) for margin in self.margins),
        )

    def _draw_distributions(
        self, label: str, table: _Potentials, shifts: Sequence[Shift]
    ) -> dict[str, Curve]:
        """The potential as bars by distribution, and over the levels of noise where there are
        any.
        """
        names = [shift.name for shift in [Shift(), *shifts]]
        curves = {
            f"distribution/{label}": Curve(
                x=tuple(range(len(names))),
                x_label="distribution",
                y_label=BY_DISTRIBUTION,
                x_names=(NOMINAL, *(shift.name for shift in shifts)),
                y=tuple(table.estimate(name, self.margin) for name in names),
            )
        }
        levels = sorted(shift.noise for shift in shifts if shift.noise)
        if levels:
            levels = [0.0, *levels]
            names = [Shift(noise=level).name for level in levels]
            curves[f"noise/{label}"] = Curve(
                x=tuple(levels),
                x_label="noise level, normalised space",
                y_label=UNDER_NOISE,
                y=tuple(table.estimate(name, self.margin) for name in names),
            )
        return curves

    def _measure_validation(
        self, record: JobRecord, shifts: Sequence[Shift]
    ) -> list[dict[str, Any]]:
        """The potentials that the recommendation reads: no test image has a part in them."""
        errors = errors_under_shifts(
            record, [Shift(), *shifts], self.count(record), validation=True
        )
        trained = find_trained_corruptions(record)
        return [
            {
                "method": label,
                "distribution": shift.name,
                "potential": table.estimate(shift.name, self.margin).value,
                "held_out": shift != Shift() and shift.corruption not in trained,
            }
            for label, table in _group_by_criterion(record, errors, shifts).items()
            for shift in [Shift(), *shifts]
        ]

    def _describe(self, label: str, table: _Potentials) -> list[str]:
        """The potentials of one criterion in words."""
        nominal = table.estimate(NOMINAL, self.margin)
        text = (
            f"{label}: at a margin of {wording.percentage_points(self.margin)} the nominal prune "
            f"potential is {_format_with_interval(nominal)}"
        )
        for group, names in table.groups.items():
            if group != NOMINAL:
                mean = table.summarise(names, self.margin, "mean")
                least = table.summarise(names, self.margin, "minimum")
                text += (
                    f"; over {group} {_format_with_interval(mean)} on average, "
                    f"{_format_with_interval(least)} at least"
                )
        return [f"{text}.", *self._compare_noise(label, table)]

    def _compare_noise(self, label: str, table: _Potentials) -> list[str]:
        """The potential under corruptions of the noise type against that under the others, in
        words.
        """
        corruptions = table.groups.get("corruption", ())
        noisy = [name for name in corruptions if name.split()[0] in NOISE_TYPES]
        others = [name for name in corruptions if name not in noisy]
        if not noisy or not others:
            return []
        under_noise = table.summarise(noisy, self.margin, "mean")
        under_others = table.summarise(others, self.margin, "mean")
        gap = table.compare(noisy, others, self.margin)
        if gap.low is None or gap.high is None or gap.low <= 0 <= gap.high:
            verdict = "no evidence of a difference"
        elif gap.high < 0:
            verdict = "noise loses more potential, as in the paper"
        else:
            verdict = "noise loses less potential, unlike in the paper"
        return [
            f"{label}: under noise-type corruptions the potential is "
            f"{wording.percent(under_noise.value)} on average, under the others "
            f"{wording.percent(under_others.value)}: {verdict}."
        ]


class _Potentials:
    """The prune potentials of one criterion: errors of its checkpoints and of the control, with
    bootstrap draws, by distribution.
    """

    def __init__(
        self,
        targets: Sequence[RoundRecord],
        errors: Mapping[str, Mapping[str, Tensor]],
        shifts: Sequence[Shift],
        *,
        parameters: int,
        record: JobRecord,
    ) -> None:
        self.ratios = torch.tensor(
            [compute_prune_ratio(row, parameters) for row in targets], dtype=torch.float64
        )
        trained = find_trained_corruptions(record)
        self.groups: dict[str, list[str]] = {NOMINAL: [NOMINAL]}
        for shift in shifts:
            self.groups.setdefault(shift.group(trained), []).append(shift.name)
        self._errors: dict[str, Tensor] = {}
        """The errors of the control and of every checkpoint, by distribution."""
        self._draws: dict[str, Tensor] = {}
        """The errors in every bootstrap sample, by distribution."""
        self.n = {name: len(flags) for name, flags in errors["control"].items()}
        for dataset, names in group_by_images(shifts).items():
            # Distributions of the same images are resampled alike, so that they can be averaged.
            keys = [] if dataset is None else [dataset]
            for name in names:
                flags = torch.stack(
                    [errors["control"][name], *(errors[row.id][name] for row in targets)]
                )
                self._errors[name] = flags.double().mean(1)
                self._draws[name] = resample_errors(
                    flags, generator(record.seed, "prune_potential", *keys)
                )

    def _find(self, name: str, margin: float) -> tuple[float, Tensor]:
        """The potential on a distribution, and in every bootstrap sample."""
        errors, draws = self._errors[name], self._draws[name]
        return (
            float(find_prune_potential(self.ratios, errors[1:], errors[0], margin)),
            find_prune_potential(self.ratios, draws[1:], draws[0], margin),
        )

    def estimate(self, name: str, margin: float) -> Estimate:
        """The potential on a distribution."""
        return percentile_interval(*self._find(name, margin), self.n[name])

    def summarise(self, names: Sequence[str], margin: float, how: str) -> Estimate:
        """The mean or the minimum over distributions."""
        values, draws = zip(*(self._find(name, margin) for name in names), strict=True)
        if how == "mean":
            value = sum(values) / len(values)
            return percentile_interval(value, torch.stack(draws).mean(0), self._fewest(names))
        return percentile_interval(min(values), torch.stack(draws).amin(0), self._fewest(names))

    def compare(self, first: Sequence[str], second: Sequence[str], margin: float) -> Estimate:
        """The mean over the first distributions less that over the second."""
        value, draws = self._average(first, margin)
        other, other_draws = self._average(second, margin)
        fewest = self._fewest((*first, *second))
        return percentile_interval(value - other, draws - other_draws, fewest)

    def _average(self, names: Sequence[str], margin: float) -> tuple[float, Tensor]:
        potentials = [self._find(name, margin) for name in names]
        value = sum(potential for potential, _ in potentials) / len(potentials)
        return value, torch.stack([draws for _, draws in potentials]).mean(0)

    def _fewest(self, names: Sequence[str]) -> int:
        """The smallest number of images among the distributions."""
        return min(self.n[name] for name in names)


def _group_by_criterion(
    record: JobRecord, errors: Mapping[str, Mapping[str, Tensor]], shifts: Sequence[Shift]
) -> dict[str, _Potentials]:
    """The potentials of every criterion that has a target."""
    parameters = count_parameters(record.dense())
    targets = [row for row in record.rounds if row.target is not None]
    return {
        label: _Potentials(
            [row for row in targets if row.label == label],
            errors,
            shifts,
            parameters=parameters,
            record=record,
        )
        for label in dict.fromkeys(row.label for row in targets)
    }


def _list_summaries(table: _Potentials) -> list[tuple[str, str, str]]:
    """The summaries (group, how, name) of a criterion; the nominal group is one distribution."""
    summaries = []
    for group in table.groups:
        if group == NOMINAL:
            summaries.append((group, "mean", group))
        else:
            summaries += [(group, how, f"{how} over {group}") for how in ("mean", "minimum")]
    return summaries


def _format_with_interval(estimate: Estimate) -> str:
    text = wording.percent(estimate.value)
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{wording.percent(estimate.low)}, {wording.percent(estimate.high)}]"
