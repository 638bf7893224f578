"""The largest share that can be pruned at a tolerated loss, on the nominal distribution and under
shift.

Source: Liebenwein, Baykal, Carter, Gifford and Rus, Lost in pruning: the effects of pruning neural
networks beyond test accuracy, MLSys 2021.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from pydantic import Field

from pruning import wording
from pruning.analysis.job_record import JobRecord
from pruning.analysis.job_size import JobSize
from pruning.analysis.prune_potential import compute_prune_ratios
from pruning.analysis.shift_errors import CONFIDENCE, ShiftErrors, Summary
from pruning.analysis.shift_parameters import ShiftParameters, label_noise
from pruning.analysis.shifts import Shift
from pruning.evaluations import evaluations
from pruning.measurement.needed_images import round_up_images
from pruning.schemas.job import NOMINAL
from pruning.schemas.report import Curve, Estimate, Section
from pruning.verdict.shift_guidelines import VALIDATION

MARGINS = (-0.1, -0.05, -0.02, -0.01, -0.005, -0.0025, 0.0, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1)
"""The grid of the paper's code."""
NOISE_TYPES = ("gaussian_noise", "impulse_noise", "shot_noise", "speckle_noise")
POTENTIAL = "prune potential"
BY_DISTRIBUTION = "prune potential by distribution"
UNDER_NOISE = "prune potential under noise"
GROUPS = {
    "corruption": "corruptions",
    "corruption trained on": "corruptions trained on",
    "noise": "levels of noise",
    "shifted set": "shifted sets",
}
"""The groups of distributions in the plural."""
NOTES = (
    "The prune potential is the largest prune ratio (fraction of all parameters) whose error is "
    "at most that of {reference} on the same distribution plus the margin; 0 where none is. "
    "Curves need not be monotone: any later success counts, as in the paper. The estimate takes "
    "the best of many measured errors, and lies too high more often than too low.",
    "The safe limit is a lower limit of it at 95 %: from the densest checkpoint on, one-sided "
    "paired tests against the margin, up to the first that does not pass. Under several "
    "distributions it is the least of theirs, at the same 95 %.",
    "Intervals hold at 95 % or more: from the safe limit at 97.5 % to the sparsest checkpoint that "
    "no test at 97.5 % shows to be above the margin; over several distributions all their limits "
    "hold together. A potential is one of the prune ratios of the job: between these nothing is "
    "known.",
    "The paper whose findings are looked for: Liebenwein et al., Lost in Pruning, 2021.",
)

LABELS = {
    "margin": "by the tolerated error",
    "distribution": "by distribution",
    "noise": "by the level of noise",
    "safe": "safe limit",
}
"""The words of the names of curves and columns."""


@evaluations.register("prune_potential")
@dataclass(frozen=True, kw_only=True)
class PrunePotential(ShiftParameters):
    """P(margin) = max PR with error(pruned) <= error(dense) + margin, by distribution.

    The dense network is the control that was retrained as the pruned one was, or with `against` the
    network as given. On the nominal images, under each corruption and each level of noise; mean and
    minimum over each group, with intervals by paired tests, and the safe limit: what can be pruned
    at 95 %.
    """

    version: ClassVar[int] = 4
    asks_about_shifts: ClassVar[bool] = True
    supports_segmentation: ClassVar[bool] = True
    noise: tuple[Annotated[float, Field(gt=0, le=100)], ...] = (0.1, 0.2, 0.3)
    margin: Annotated[
        float, Field(ge=-1, le=1, description="tolerated error above the dense network's")
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
        shifts, unchanged = self.select_shifts(record)
        errors = self._measure(record, shifts)
        rows: list[dict[str, Any]] = []
        curves: dict[str, Curve] = {}
        scalars: dict[str, Estimate] = {}
        notes: list[str] = []
        for label, ratios in compute_prune_ratios(record).items():
            rows += self._tabulate(label, ratios, errors)
            for names, summary, title in _list_summaries(errors):
                key = f"prune_potential_{title.replace(' ', '_')}/{label}"
                scalars[key] = errors.potential(ratios, names, self.margin, summary=summary)
                potentials = [
                    errors.potential(ratios, names, margin, summary=summary)
                    for margin in self.margins
                ]
                curves[f"margin/{title}/{label}"] = self._draw_margins(potentials, title)
                if summary == "minimum" or len(names) == 1:
                    safe = errors.safe_potential(ratios, names, self.margin)
                    scalars[f"safe_{key}"] = Estimate(value=safe, n=scalars[key].n, unit="fraction")
            curves |= self._draw_distributions(label, ratios, errors)
            notes += self._describe(label, ratios, errors)
        details: dict[str, Any] = {
            "potential_by_distribution": rows,
            "margin": self.margin,
            "against": self.against,
            "unchanged": unchanged,
        }
        if record.recipe.shifts is not None:
            validation = self._tabulate_validation(record, shifts)
            if validation:
                details[VALIDATION] = validation
        return Section(
            title="Prune potential",
            version=self.version,
            curves=curves,
            scalars=scalars,
            details=details,
            hidden=("margin", "against", "unchanged"),
            labels=LABELS
            | {
                f"{prefix}prune_potential_{title.replace(' ', '_')}": f"{words}, {title}"
                for _, _, title in _list_summaries(errors)
                for prefix, words in (("", "prune potential"), ("safe_", "safe prune potential"))
            },
            units={"potential": "fraction", "safe": "fraction"},
            notes=(
                *notes,
                *self._describe_resolution(errors),
                self.describe(record, shifts, unchanged),
                *self.describe_references(record),
                *(note.replace("{reference}", self.reference) for note in NOTES),
            ),
        )

    def _measure(
        self, record: JobRecord, shifts: Sequence[Shift], *, validation: bool = False
    ) -> ShiftErrors:
        """The errors under shift on test (or validation) images."""
        return ShiftErrors.measure(
            record,
            shifts,
            self.count,
            seed_names=("prune_potential",),
            validation=validation,
            against=self.against,
        )

    def _tabulate(
        self, label: str, ratios: Mapping[str, float], errors: ShiftErrors
    ) -> list[dict[str, Any]]:
        """The rows of one criterion, one for each distribution."""
        return [
            {
                "method": label,
                "distribution": shift.name,
                "group": shift.group(errors.trained),
                "potential": errors.potential(ratios, [shift.name], self.margin).model_dump(),
                "safe": errors.safe_potential(ratios, [shift.name], self.margin),
            }
            for shift in errors.distributions
        ]

    def _tabulate_validation(
        self, record: JobRecord, shifts: Sequence[Shift]
    ) -> list[dict[str, Any]]:
        """The potentials that the recommendation reads: no test image has a part in them.

        The safe limits of all criteria hold together, as the recommendation takes the best.
        """
        errors = self._measure(record, shifts, validation=True)
        by_label = compute_prune_ratios(record)
        confidence = 1 - (1 - CONFIDENCE) / max(1, len(by_label))
        rows = []
        for label, ratios in by_label.items():
            for shift in errors.distributions:
                names = [shift.name]
                rows.append(
                    {
                        "method": label,
                        "distribution": shift.name,
                        "potential": errors.potential(ratios, names, self.margin).value,
                        "safe": errors.safe_potential(
                            ratios, names, self.margin, confidence=confidence
                        ),
                        "images": errors.sizes[shift.name],
                        "against": self.against,
                        "held_out": shift != Shift() and shift.corruption not in errors.trained,
                    }
                )
        return rows

    def _draw_margins(self, potentials: Sequence[Estimate], title: str) -> Curve:
        """The potential of a group of distributions over the margin."""
        return Curve(
            x=self.margins,
            x_label=f"margin: error tolerated above that of {self.reference}",
            x_unit="points",
            y_label=f"{POTENTIAL}, {title}",
            y_unit="fraction",
            y=tuple(potentials),
        )

    def _draw_distributions(
        self, label: str, ratios: Mapping[str, float], errors: ShiftErrors
    ) -> dict[str, Curve]:
        """The potential as bars by distribution, and over the levels of noise where there are
        any.
        """
        potentials = {
            shift.name: errors.potential(ratios, [shift.name], self.margin)
            for shift in errors.distributions
        }
        curves = {
            f"distribution/{label}": Curve(
                x=tuple(range(len(potentials))),
                x_label="distribution",
                y_label=BY_DISTRIBUTION,
                y_unit="fraction",
                x_names=tuple(potentials),
                y=tuple(potentials.values()),
            )
        }
        noise = sorted(
            (shift for shift in errors.distributions if shift.noise), key=lambda shift: shift.noise
        )
        if noise:
            levels = [Shift(), *noise]
            curves[f"noise/{label}"] = Curve(
                x=tuple(shift.noise for shift in levels),
                x_label=label_noise(self.noise_unit),
                y_label=UNDER_NOISE,
                y_unit="fraction",
                y=tuple(potentials[shift.name] for shift in levels),
            )
        return curves

    def _describe(self, label: str, ratios: Mapping[str, float], errors: ShiftErrors) -> list[str]:
        """The potentials of one criterion in words."""
        nominal = errors.potential(ratios, [NOMINAL], self.margin)
        safe = wording.percent_at_least(errors.safe_potential(ratios, [NOMINAL], self.margin))
        text = (
            f"{label}: at the margin of prune_potential, "
            f"{wording.percentage_points(self.margin)} above {self.reference}, the nominal prune "
            f"potential is {_format_with_interval(nominal)}, and {safe} are safe at 95 %"
        )
        for group, names in errors.groups.items():
            if group != NOMINAL:
                mean = errors.potential(ratios, names, self.margin)
                least = errors.potential(ratios, names, self.margin, summary="minimum")
                safe = wording.percent_at_least(errors.safe_potential(ratios, names, self.margin))
                text += (
                    f"; over {GROUPS[group]} {_format_with_interval(mean)} on average, "
                    f"{_format_with_interval(least)} under the worst, and {safe} are safe under "
                    "all of them"
                )
        return [f"{text}.", *self._compare_noise(label, ratios, errors)]

    def _describe_resolution(self, errors: ShiftErrors) -> list[str]:
        """A warning where the images are too few to tell an increase of the margin from none."""
        checkpoints = list(errors.references)
        if self.margin <= 0 or not checkpoints:
            return []
        resolutions = {
            shift.name: errors.resolution(checkpoints, shift.name) for shift in errors.distributions
        }
        coarse = {name: width for name, width in resolutions.items() if width > self.margin}
        if not coarse:
            return []
        worst = max(coarse, key=lambda name: coarse[name])
        images = errors.sizes[worst]
        needed = math.ceil(images * (coarse[worst] / self.margin) ** 2)
        return [
            f"Warning: so few images would not show an increase of zero to be within the margin of "
            f"{wording.percentage_points(self.margin)} under {len(coarse)} of "
            f"{wording.count_of(len(resolutions), 'distribution')}. Under {worst} the limit of an "
            f"increase lies {wording.percentage_points(coarse[worst])} above its estimate at "
            f"{wording.count_of(images, 'image')} (median over checkpoints); it takes about "
            f"{wording.count_of(round_up_images(needed), 'image')} to bring it within the margin. "
            "Until then a low safe limit may say only that little is known, and not that much is "
            "lost."
        ]

    def _compare_noise(
        self, label: str, ratios: Mapping[str, float], errors: ShiftErrors
    ) -> list[str]:
        """The potential under corruptions of the noise type against that under the others, in
        words.
        """
        corruptions = errors.groups.get("corruption", ())
        noisy = [name for name in corruptions if name.split()[0] in NOISE_TYPES]
        others = [name for name in corruptions if name not in noisy]
        if not noisy or not others:
            return []
        under_noise = errors.potential(ratios, noisy, self.margin)
        under_others = errors.potential(ratios, others, self.margin)
        gap = errors.potential_difference(ratios, noisy, others, self.margin)
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


def _list_summaries(errors: ShiftErrors) -> list[tuple[list[str], Summary, str]]:
    """The summaries of the potential (distributions, summary, title); the nominal group is one
    distribution.
    """
    summaries: list[tuple[list[str], Summary, str]] = []
    for group, names in errors.groups.items():
        if group == NOMINAL:
            summaries.append((names, "mean", group))
        else:
            summaries.append((names, "mean", f"mean over {group}"))
            summaries.append((names, "minimum", f"minimum over {group}"))
    return summaries


def _format_with_interval(estimate: Estimate) -> str:
    text = wording.percent(estimate.value)
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{wording.percent(estimate.low)}, {wording.percent(estimate.high)}]"
