"""How much can be pruned at a tolerated loss, on the nominal distribution and under shift.

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

from pruning import wording as q
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
NOTES = (
    "The prune potential is the largest prune ratio (fraction of all parameters) whose error is "
    "at most that of the dense "
    "control on the same distribution plus the margin; 0 where none is. Curves need not be "
    "monotone: any later success "
    "counts, as in the paper.",
    "Intervals are 95 % bootstrap intervals over the test images, the same resamples for all "
    "networks. A potential is one "
    "of the prune ratios of the job: between these nothing is known.",
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

    def units(self, scale: JobSize) -> int:
        """As of all evaluations under shift, and the validation images where the recommendation
        reads them.
        """
        found = super().units(scale)
        if scale.recipe.shifts is not None:
            validation = {name: (0, val) for name, (val, _) in scale.shifted.items()}
            found += super().units(
                replace(
                    scale, images={**scale.images, "test": scale.images["val"]}, shifted=validation
                )
            )
        return found

    def evaluate(self, trial: JobRecord) -> Section:
        """Curves `margin/<group>/<criterion>`, `noise/<criterion>`; scalars `<group>/<criterion>`;
        bars by distribution.
        """
        shifts = self.shifts(trial)
        found = errors_under_shifts(trial, [Shift(), *shifts], self.count(trial))
        parameters = count_parameters(trial.dense())
        targets = [one for one in trial.rounds if one.target is not None]
        tables = {
            label: _Potentials(
                [one for one in targets if one.label == label], found, shifts, parameters, trial
            )
            for label in dict.fromkeys(one.label for one in targets)
        }
        rows: list[dict[str, Any]] = []
        trained = find_trained_corruptions(trial)
        curves: dict[str, Curve] = {}
        scalars: dict[str, Estimate] = {}
        for label, table in tables.items():
            rows += [
                {
                    "method": label,
                    "distribution": shift.name,
                    "group": shift.group(trained),
                    "potential": table.of(shift.name, self.margin).model_dump(),
                }
                for shift in [Shift(), *shifts]
            ]
            for kind, names in table.groups.items():
                for how in ("mean", "minimum") if kind != NOMINAL else ("mean",):
                    name = kind if kind == NOMINAL else f"{how} over {kind}"
                    scalars[f"prune_potential_{name.replace(' ', '_')}/{label}"] = table.over(
                        names, self.margin, how
                    )
                    curves[f"margin/{name}/{label}"] = Curve(
                        x=self.margins,
                        x_label="margin: error tolerated above the dense control's",
                        y_label=f"{POTENTIAL}, {name}",
                        y=tuple(table.over(names, margin, how) for margin in self.margins),
                    )
            curves[f"distribution/{label}"] = Curve(
                x=tuple(range(len(shifts) + 1)),
                x_label="distribution",
                y_label=BY_DISTRIBUTION,
                x_names=(NOMINAL, *(shift.name for shift in shifts)),
                y=tuple(table.of(shift.name, self.margin) for shift in [Shift(), *shifts]),
            )
            levels = sorted(shift.noise for shift in shifts if shift.noise)
            if levels:
                curves[f"noise/{label}"] = Curve(
                    x=(0.0, *levels),
                    x_label="noise level, normalised space",
                    y_label=UNDER_NOISE,
                    y=tuple(
                        table.of(Shift(noise=level).name, self.margin) for level in (0.0, *levels)
                    ),
                )
        validation = (
            self._on_validation(trial, targets, shifts, parameters)
            if trial.recipe.shifts is not None
            else []
        )
        return Section(
            title="Prune potential",
            version=self.version,
            curves=curves,
            scalars=scalars,
            details={"potential_by_distribution": rows}
            | ({VALIDATION: validation} if validation else {}),
            notes=(
                *(
                    sentence
                    for label, table in tables.items()
                    for sentence in self._said(label, table)
                ),
                self.describe(trial, shifts),
                *NOTES,
            ),
        )

    def _on_validation(
        self,
        trial: JobRecord,
        targets: Sequence[RoundRecord],
        shifts: Sequence[Shift],
        parameters: int,
    ) -> list[dict[str, Any]]:
        """The potentials that the recommendation reads: no test image has a part in them."""
        found = errors_under_shifts(trial, [Shift(), *shifts], self.count(trial), validation=True)
        rows = []
        for label in dict.fromkeys(one.label for one in targets):
            table = _Potentials(
                [one for one in targets if one.label == label], found, shifts, parameters, trial
            )
            rows += [
                {
                    "method": label,
                    "distribution": shift.name,
                    "potential": table.of(shift.name, self.margin).value,
                    "held_out": shift != Shift()
                    and shift.corruption not in find_trained_corruptions(trial),
                }
                for shift in [Shift(), *shifts]
            ]
        return rows

    def _said(self, label: str, table: _Potentials) -> list[str]:
        """What was seen of one method."""
        nominal = table.of(NOMINAL, self.margin)
        found = [
            f"{label}: at a margin of {q.percentage_points(self.margin)} the nominal prune "
            f"potential is {_bracketed(nominal)}"
        ]
        for kind, names in table.groups.items():
            if kind != NOMINAL:
                mean, least = (table.over(names, self.margin, how) for how in ("mean", "minimum"))
                found[0] += (
                    f"; over {kind} {_bracketed(mean)} on average, {_bracketed(least)} at least"
                )
        found[0] += "."
        noisy = [
            name for name in table.groups.get("corruption", ()) if name.split()[0] in NOISE_TYPES
        ]
        others = [name for name in table.groups.get("corruption", ()) if name not in noisy]
        if noisy and others:
            a, b = table.over(noisy, self.margin, "mean"), table.over(others, self.margin, "mean")
            gap = table.gap(noisy, others, self.margin)
            if gap.low is None or gap.high is None or gap.low <= 0 <= gap.high:
                verdict = "no evidence of a difference"
            else:
                more = gap.high < 0
                verdict = (
                    f"noise loses {'more' if more else 'less'} potential, "
                    f"{'as' if more else 'unlike'} in the paper"
                )
            found.append(
                f"{label}: under noise-type corruptions the potential is {q.percent(a.value)} on "
                "average, under "
                f"the others {q.percent(b.value)}: {verdict}."
            )
        return found


POTENTIAL = "prune potential"
BY_DISTRIBUTION = "prune potential by distribution"
UNDER_NOISE = "prune potential under noise"


class _Potentials:
    """Of one method: errors of its checkpoints and of the control, with bootstrap draws, by
    distribution.
    """

    def __init__(
        self,
        targets: Sequence[RoundRecord],
        found: Mapping[str, Mapping[str, Tensor]],
        shifts: Sequence[Shift],
        parameters: int,
        trial: JobRecord,
    ) -> None:
        self.ratios = torch.tensor(
            [compute_prune_ratio(one, parameters) for one in targets], dtype=torch.float64
        )
        self.groups: dict[str, list[str]] = {NOMINAL: [NOMINAL]}
        for shift in shifts:
            self.groups.setdefault(shift.group(find_trained_corruptions(trial)), []).append(
                shift.name
            )
        self._values: dict[str, Tensor] = {}
        self._draws: dict[str, Tensor] = {}
        self.n = {name: len(flags) for name, flags in found["control"].items()}
        for dataset, name in (
            (dataset, name) for dataset, names in group_by_images(shifts).items() for name in names
        ):
            flags = torch.stack([found["control"][name], *(found[one.id][name] for one in targets)])
            self._values[name] = flags.double().mean(1)
            self._draws[name] = resample_errors(
                flags,
                generator(trial.seed, "prune_potential", *([] if dataset is None else [dataset])),
            )

    def _at(self, name: str, margin: float) -> tuple[float, Tensor]:
        values, draws = self._values[name], self._draws[name]
        return (
            float(find_prune_potential(self.ratios, values[1:], values[0], margin)),
            find_prune_potential(self.ratios, draws[1:], draws[0], margin),
        )

    def of(self, name: str, margin: float) -> Estimate:
        return percentile_interval(*self._at(name, margin), self.n[name])

    def over(self, names: Sequence[str], margin: float, how: str) -> Estimate:
        """The mean or the minimum over distributions."""
        values, draws = zip(*(self._at(name, margin) for name in names), strict=True)
        if how == "mean":
            return percentile_interval(
                sum(values) / len(values), torch.stack(draws).mean(0), self._fewest(names)
            )
        return percentile_interval(min(values), torch.stack(draws).amin(0), self._fewest(names))

    def gap(self, first: Sequence[str], second: Sequence[str], margin: float) -> Estimate:
        """The mean over some distributions less that over others."""
        (a, drawn), (b, other) = (
            (
                sum(value for value, _ in found) / len(found),
                torch.stack([d for _, d in found]).mean(0),
            )
            for found in ([self._at(name, margin) for name in names] for names in (first, second))
        )
        return percentile_interval(a - b, drawn - other, self._fewest((*first, *second)))

    def _fewest(self, names: Sequence[str]) -> int:
        return min(self.n[name] for name in names)


def _bracketed(estimate: Estimate) -> str:
    text = q.percent(estimate.value)
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{q.percent(estimate.low)}, {q.percent(estimate.high)}]"
