"""What approximation bounds predict of a network's pruning, how loose they are, and which factor
makes them so.

Source: Gordon, When are approximation bounds useful?, ICLR 2021 submission; its definitions are
derived here, see `pruning.bounds`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from pruning import wording as q
from pruning.analysis.bound_findings import (
    NOTES,
    choose_headline_form,
    describe_findings,
    check_coverage_of_forms,
)
from pruning.analysis.bound_report import BoundReport, Prediction, summarise_outcomes
from pruning.analysis.bound_layers import Pruned
from pruning.analysis.bound_study import Study
from pruning.analysis.job_record import JobRecord
from pruning.analysis.job_size import JobSize
from pruning.bounds.forms import BoundedCriterion
from pruning.errors import PRUNING_ERRORS, BudgetError, SecateurError
from pruning.evaluations import evaluations
from pruning.evidence.calibration import choose_calibration, draw_batches
from pruning.measurement.costs import count_flops
from pruning.rounds.method import PruningMethod
from pruning.schemas.criterion_labels import label_criteria
from pruning.schemas.recipe import Method, Recipe, Targets
from pruning.schemas.report import Curve, Estimate, Section
from pruning.seeding import generator

GRID = (0.001, 0.01, 0.1)
"""Sparsities looked at beside the job's targets: bounds are useful, if anywhere, where little is
pruned.
"""
WORK = 500_000_000
"""Multiply-adds of all images together, where the recipe does not say how many images."""
QUICK = 200
PASSES = 300
"""Forward passes that take as long as all forms of one pruned network at one image, about."""
Sparsity = Annotated[float, Field(gt=0, lt=1)]


@evaluations.register("bounds")
@dataclass(frozen=True)
class Bounds:
    """Every form of each method's error bound beside what it bounds, over sparsity.

    The network as given is pruned in one shot, without retraining, and |z' - z| is bounded for
    every layer and logit at test images z; an image is predicted right where the label's logit less
    its bound exceeds all others with theirs. `methods` are criteria with their own allocation and
    sparsifier; by default those of the job that a paper bounds, or else all of it. `images` by
    default are at most 200, fewer for a large network.
    """

    version: ClassVar[int] = 1
    methods: tuple[Method, ...] | None = field(default=None)
    sparsities: tuple[Sparsity, ...] | None = field(default=None)
    delta: Annotated[
        float, Field(gt=0, lt=0.5, description="probability that a certified form fails")
    ] = 0.05
    trials: Annotated[
        int, Field(ge=1, le=1000, description="draws of a sampler at each sparsity")
    ] = 3
    images: Annotated[int, Field(ge=1, le=100_000)] | None = None

    def applies(self, trial: JobRecord) -> bool:
        """With a checkpoint, of a criterion that does not move the weights that remain."""
        return any(one.target is not None for one in trial.rounds) and bool(
            self._methods(trial.recipe)
        )

    def evaluate(self, trial: JobRecord) -> Section:
        """Curves `predicted/<method>/<form>`, `distance/...`, `tightness/...`,
        `components/<method>/<factor>`; tables.
        """
        inputs, labels = self._points(trial)
        reports: dict[str, BoundReport] = {}
        notes: list[str] = []
        failed: list[SecateurError] = []
        for label, seams in self._methods(trial.recipe).items():
            try:
                reports[label] = self._report(trial, label, seams, inputs, labels, notes)
            except PRUNING_ERRORS as error:
                failed.append(error)
                notes.append(f"{label} has no bounds here: {error.message}")
        if not reports:
            raise failed[0] if failed else BudgetError("no method to bound: list some in `methods`")
        curves = {
            key: curve for label, report in reports.items() for key, curve in _curves(label, report)
        }
        details = {
            name: rows
            for name, rows in (
                (
                    "coverage",
                    [
                        row
                        for label, report in reports.items()
                        for row in check_coverage_of_forms(label, report)
                    ],
                ),
                (
                    "predictions",
                    [
                        {"method": label} | one.document()
                        for label, report in reports.items()
                        for one in report.predictions
                    ],
                ),
                (
                    "tightness_by_layer",
                    [
                        row
                        for label, report in reports.items()
                        for row in _layer_rows(label, report)
                    ],
                ),
                (
                    "components",
                    [
                        {"method": label} | one.document()
                        for label, report in reports.items()
                        for one in report.components
                    ],
                ),
            )
            if rows
        }
        said = [
            sentence
            for label, report in reports.items()
            for sentence in describe_findings(label, report)
        ]
        return Section(
            title="Approximation bounds",
            version=self.version,
            curves=curves,
            details=details,
            notes=(
                *said,
                *notes,
                f"{q.count_of(len(labels), 'test image')}{_drawn(reports.values())}.",
                *NOTES,
            ),
        )

    def units(self, scale: JobSize) -> int:
        """Every form of every pruning at every image."""
        draws = sum(
            self.trials if getattr(seams.sparsifier, "reweights", False) else 1
            for seams in self._methods(scale.recipe).values()
        )
        images = min(self.images or _images(scale.macs), scale.images["test"])
        return PASSES * images * draws * len(self._asked(scale.recipe))

    def _asked(self, recipe: Recipe) -> Sequence[float]:
        return self.sparsities or sorted({*GRID, *recipe.targets.sparsity})

    def _methods(self, recipe: Recipe) -> dict[str, PruningMethod]:
        if self.methods is not None:
            asked = Recipe(
                criterion=self.methods, targets=Targets(sparsity=(0.5,)), exclude=recipe.exclude
            )
            return {
                label: PruningMethod.of(asked, method)
                for label, method in zip(label_criteria(asked), asked.criteria, strict=True)
            }
        every = {
            label: PruningMethod.of(recipe, method)
            for label, method in zip(label_criteria(recipe), recipe.criteria, strict=True)
        }
        mine = {label: seams for label, seams in every.items() if Study.takes(seams)}
        return {
            label: seams
            for label, seams in mine.items()
            if isinstance(seams.criterion, BoundedCriterion)
        } or mine

    def _points(self, trial: JobRecord) -> tuple[Tensor, Tensor]:
        data = trial.data
        count = self.images or _images(max(1, count_flops(trial.dense(), data.shape, None) // 2))
        order = torch.randperm(len(data.test), generator=generator(trial.seed, "bounds"))[:count]
        split = data.test[order.to(data.test.labels.device)]
        return data.normalize(split.images), split.labels

    def _report(
        self,
        trial: JobRecord,
        label: str,
        seams: PruningMethod,
        inputs: Tensor,
        labels: Tensor,
        notes: list[str],
    ) -> BoundReport:
        data, seed = trial.data, trial.seed
        given = draw_batches(
            data, choose_calibration(seams.criterion, len(data.classes)), seed, "bounds"
        )
        study = Study(
            trial.dense(),
            seams,
            given,
            data.shape,
            generator(seed, "bounds", label),
            exclude=trial.recipe.exclude,
        )
        asked = self._asked(trial.recipe)
        pruned: list[Pruned] = []
        refused: dict[float, BudgetError] = {}
        for sparsity in asked:
            try:
                pruned += [
                    study.prune(
                        sparsity, number, generator(seed, "bounds", label, repr(sparsity), number)
                    )
                    for number in range(self.trials if study.sampled else 1)
                ]
            except BudgetError as error:
                refused[sparsity] = error
        if not pruned:
            raise next(iter(refused.values()))
        if refused:
            notes.append(
                f"{label}: nothing at a sparsity of {', '.join(map(q.short_percent, refused))}: "
                f"{next(iter(refused.values())).message}"
            )
        outcomes = study.outcomes(
            pruned, inputs, self.delta, lambda images: trial.advance(images * PASSES)
        )
        return summarise_outcomes(outcomes, study.answers(inputs), labels, self.delta)


def _curves(label: str, report: BoundReport) -> Iterator[tuple[str, Curve]]:
    """Of one method; each quantity of a method is one plot."""
    any_form = report.form(report.forms[0])

    def curve(y_label: str, of: Sequence[tuple[Prediction, float | None]]) -> Curve:
        known = [(one.sparsity, value) for one, value in of if value is not None]
        return Curve(
            x=tuple(x for x, _ in known),
            x_label=q.LOG_SPARSITY,
            y_label=f"{y_label}, {label}",
            y=tuple(Estimate(value=value, n=report.images) for _, value in known),
        )

    yield f"predicted/{label}/measured", curve(ACCURACY, [(one, one.measured) for one in any_form])
    for form in report.forms:
        yield (
            f"predicted/{label}/{form}",
            curve(ACCURACY, [(one, one.predicted) for one in report.form(form)]),
        )
    form = choose_headline_form(report)
    yield (
        f"predicted/{label}/{form}, not ruled out",
        curve(ACCURACY, [(one, one.optimistic) for one in report.form(form)]),
    )
    yield (
        f"distance/{label}/measured",
        curve(
            DISTANCE,
            [
                (one, spread.log10 if (spread := report.error[one.requested]) else None)
                for one in any_form
            ],
        ),
    )
    for form in report.forms:
        yield (
            f"distance/{label}/{form}",
            curve(
                DISTANCE,
                [(one, one.bound.log10 if one.bound else None) for one in report.form(form)],
            ),
        )
    for form in report.forms:
        yield (
            f"tightness/{label}/{form}",
            curve(
                TIGHTNESS,
                [
                    (one, one.tightness.log10 if one.tightness else None)
                    for one in report.form(form)
                ],
            ),
        )
    by_request = {one.requested: one for one in any_form}
    for form, factor in dict.fromkeys((one.form, one.factor) for one in report.components):
        mine = [one for one in report.components if (one.form, one.factor) == (form, factor)]
        if form == ("paper" if "paper" in report.forms else choose_headline_form(report)):
            yield (
                f"components/{label}/{factor}",
                curve(
                    f"{COST} ({form})",
                    [
                        (by_request[one.requested], one.log10 if one.log10 < math.inf else None)
                        for one in mine
                    ],
                ),
            )


def _images(macs: int) -> int:
    """How many by default."""
    return min(QUICK, max(10, WORK // macs))


ACCURACY = "accuracy promised by the bound and measured"
DISTANCE = "log10 of the median distance of a logit from the dense network's"
TIGHTNESS = "tightness at the logits: log10 of bound over measured, median"
COST = "log10 of what a factor costs the bound at the logits"


def _drawn(reports: Iterable[BoundReport]) -> str:
    """How often the samplers drew, if there are any."""
    trials = max(one.trials for report in reports for one in report.predictions)
    return f"; a sampler draws {q.count_of(trials, 'time')} at each sparsity" if trials > 1 else ""


def _layer_rows(label: str, report: BoundReport) -> list[dict[str, Any]]:
    return [
        {"method": label, "form": one.form, "sparsity": one.sparsity, "layer": name}
        | (spread.document() if spread else {"median": None, "p95": None, "log10_median": None})
        for one in report.predictions
        for name, spread in one.layers.items()
    ]
