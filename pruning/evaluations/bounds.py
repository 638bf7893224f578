"""The accuracy that approximation bounds predict after pruning, how loose they are, and which
factor makes them so.

Source: Gordon, When are approximation bounds useful?, ICLR 2021 submission; its definitions are
derived here, see `pruning.bounds`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from pruning import wording
from pruning.analysis.bound_findings import (
    NOTES,
    choose_headline_form,
    describe_findings,
    list_coverage_rows,
)
from pruning.analysis.bound_layers import Pruned
from pruning.analysis.bound_report import BoundReport, Prediction, Spread, summarise_outcomes
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
from pruning.schemas.recipe import Method, Recipe
from pruning.schemas.report import Curve, Estimate, Section, Unit
from pruning.seeding import generator

GRID = (0.001, 0.01, 0.1)
"""The sparsities looked at beside the job's targets: bounds are useful, if anywhere, where little
is pruned.
"""
WORK = 500_000_000
"""Multiply-adds of all images together, where the recipe does not say how many images."""
QUICK = 200
"""The most images, where the recipe does not say how many."""
PASSES = 300
"""The number of forward passes that take about as long as all forms of one pruned network at one
image.
"""
UNITS: dict[str, Unit] = {
    "sparsity": "share",
    "requested_sparsity": "share",
    "vacuous_from_sparsity": "share",
    "measured_accuracy": "fraction",
    "optimistic_accuracy": "fraction",
    "predicted_accuracy": "fraction",
    "measured_accuracy_low": "fraction",
    "measured_accuracy_high": "fraction",
    "optimistic_accuracy_low": "fraction",
    "optimistic_accuracy_high": "fraction",
    "predicted_accuracy_low": "fraction",
    "predicted_accuracy_high": "fraction",
    "draws_needed_factor": "factor",
}
LABELS = {
    "predicted": "promised accuracy",
    "distance": "distance at the logits",
    "tightness": "tightness at the logits",
    "components": "what each factor costs",
    "p95": "95th percentile",
    "holds": "not contradicted by the violations",
    "log10_median": "log10 of the median",
}
"""The words of the names of curves and columns."""
ACCURACY = "accuracy promised by the bound and measured"
DISTANCE = "log10 of the median distance of a logit from the dense network's"
TIGHTNESS = "tightness at the logits: log10 of bound over measured, median"
COST = "log10 of what a factor costs the bound at the logits"
Sparsity = Annotated[float, Field(gt=0, lt=1)]


@evaluations.register("bounds")
@dataclass(frozen=True)
class Bounds:
    """Every form of each method's error bound beside what it bounds, over sparsity.

    The network as given is pruned in one shot, without retraining, and |z' - z| is bounded for
    every layer and logit at test images z; an image is predicted right where the label's logit less
    its bound exceeds all others with theirs. `methods` are criteria with their own allocation and
    sparsifier; by default those of the job that a paper bounds, or else all of it. `images` by
    default are at most 200, fewer for a large network; there may be as many as the test set has.
    Accuracies have intervals for other images and other draws.
    """

    version: ClassVar[int] = 3
    asks_how_pruned: ClassVar[bool] = True
    methods: Annotated[tuple[Method, ...], Field(min_length=1)] | None = field(default=None)
    sparsities: tuple[Sparsity, ...] | None = field(default=None)
    delta: Annotated[
        float, Field(ge=1e-100, lt=0.5, description="probability that a certified form fails")
    ] = 0.05
    trials: Annotated[
        int, Field(ge=1, le=1000, description="draws of a sampler at each sparsity")
    ] = 3
    images: Annotated[int, Field(ge=1, le=100_000)] | None = None

    def applies(self, record: JobRecord) -> bool:
        """Return whether there is a checkpoint, of a criterion that does not move the weights that
        remain.
        """
        has_target = any(row.target is not None for row in record.rounds)
        return has_target and bool(self._list_methods(record.recipe))

    def evaluate(self, record: JobRecord) -> Section:
        """Return curves `predicted/<method>/<form>`, `distance/...`, `tightness/...` and
        `components/<method>/<factor>`, and tables.
        """
        inputs, labels = self._draw_images(record)
        reports: dict[str, BoundReport] = {}
        notes: list[str] = []
        failures: list[SecateurError] = []
        for label, method in self._list_methods(record.recipe).items():
            try:
                reports[label] = self._bound(
                    record, label, method, inputs=inputs, labels=labels, notes=notes
                )
            except PRUNING_ERRORS as error:
                failures.append(error)
                notes.append(f"{label} has no bounds here: {error.message}")
        if not reports:
            if failures:
                raise failures[0]
            raise BudgetError("no method to bound: list some in `methods`")
        curves: dict[str, Curve] = {}
        findings: list[str] = []
        for label, report in reports.items():
            curves |= _draw_curves(label, report)
            findings += describe_findings(label, report)
        images = f"Looked at: {wording.count_of(len(labels), 'test image')}"
        return Section(
            title="Approximation bounds",
            version=self.version,
            curves=curves,
            details=_tabulate(reports),
            units=UNITS,
            labels=LABELS,
            notes=(*findings, *notes, f"{images}{_describe_draws(reports.values())}.", *NOTES),
        )

    def units(self, size: JobSize) -> int:
        """Return the forward passes that every form of every pruning takes at every image."""
        draws = sum(
            self.trials if getattr(method.sparsifier, "reweights", False) else 1
            for method in self._list_methods(size.recipe).values()
        )
        images = min(self.images or _choose_image_count(size.macs), size.images["test"])
        return PASSES * images * draws * len(self._list_sparsities(size.recipe))

    def _list_sparsities(self, recipe: Recipe) -> Sequence[float]:
        return self.sparsities or sorted({*GRID, *(recipe.targets.sparsity or ())})

    def _list_methods(self, recipe: Recipe) -> dict[str, PruningMethod]:
        """The methods to bound, by label."""
        if self.methods is not None:
            # A recipe of these methods alone labels them as a job's criteria are labelled.
            recipe = Recipe(
                criterion=self.methods, targets=recipe.targets, overrides=recipe.overrides
            )
        methods = {
            label: PruningMethod.of(recipe, method)
            for label, method in zip(label_criteria(recipe), recipe.criteria, strict=True)
        }
        if self.methods is not None:
            return methods
        possible = {label: method for label, method in methods.items() if Study.takes(method)}
        with_paper = {
            label: method
            for label, method in possible.items()
            if isinstance(method.criterion, BoundedCriterion)
        }
        return with_paper or possible

    def _draw_images(self, record: JobRecord) -> tuple[Tensor, Tensor]:
        """The test images, normalised, and their labels."""
        data = record.data
        macs = max(1, count_flops(record.dense(), data.shape, None) // 2)
        count = self.images or _choose_image_count(macs)
        order = torch.randperm(len(data.test), generator=generator(record.seed, "bounds"))[:count]
        split = data.test[order.to(data.test.labels.device)]
        return data.normalize(split.images), split.labels

    def _bound(
        self,
        record: JobRecord,
        label: str,
        method: PruningMethod,
        *,
        inputs: Tensor,
        labels: Tensor,
        notes: list[str],
    ) -> BoundReport:
        """Prune by a method at every sparsity and bound the networks; adds to the notes."""
        data = record.data
        images = choose_calibration(method.criterion, len(data.classes))
        study = Study(
            record.dense(),
            method,
            draw_batches(data, images, record.seed, "bounds"),
            data.shape,
            generator(record.seed, "bounds", label),
            exclude=record.recipe.exclude,
            include=record.recipe.include,
        )
        pruned = self._prune(study, record, label, notes)
        outcomes = study.outcomes(
            pruned, inputs, self.delta, lambda images: record.advance(images * PASSES)
        )
        return summarise_outcomes(outcomes, study.answers(inputs), labels, self.delta)

    def _prune(self, study: Study, record: JobRecord, label: str, notes: list[str]) -> list[Pruned]:
        """The networks at every sparsity that can be reached; a note names the others.

        Raises `BudgetError` where none can be reached.
        """
        pruned: list[Pruned] = []
        refused: dict[float, BudgetError] = {}
        for sparsity in self._list_sparsities(record.recipe):
            try:
                pruned += [
                    study.prune(
                        sparsity,
                        trial,
                        generator(record.seed, "bounds", label, repr(sparsity), trial),
                    )
                    for trial in range(self.trials if study.sampled else 1)
                ]
            except BudgetError as error:
                refused[sparsity] = error
        if refused:
            first_error = next(iter(refused.values()))
            if not pruned:
                raise first_error
            sparsities = ", ".join(map(wording.short_percent, refused))
            notes.append(f"{label}: nothing at a sparsity of {sparsities}: {first_error.message}")
        return pruned


def _tabulate(reports: Mapping[str, BoundReport]) -> dict[str, list[dict[str, Any]]]:
    """The tables of all methods; none without rows."""
    tables: dict[str, list[dict[str, Any]]] = {
        "coverage": [],
        "predictions": [],
        "tightness_by_layer": [],
        "components": [],
    }
    for label, report in reports.items():
        tables["coverage"] += list_coverage_rows(label, report)
        tables["predictions"] += [
            {"method": label} | prediction.document() for prediction in report.predictions
        ]
        tables["tightness_by_layer"] += _list_layer_rows(label, report)
        tables["components"] += [
            {"method": label} | component.document() for component in report.components
        ]
    return {name: rows for name, rows in tables.items() if rows}


def _draw_curves(label: str, report: BoundReport) -> dict[str, Curve]:
    """The curves of one method; each quantity of a method is one plot."""
    any_form = report.form(report.forms[0])
    headline = choose_headline_form(report)
    curves = {
        f"predicted/{label}/measured": _draw_curve(
            ACCURACY, label, report, [(row, row.intervals["measured"]) for row in any_form]
        )
    }
    for form in report.forms:
        promised = [(row, row.intervals["predicted"]) for row in report.form(form)]
        curves[f"predicted/{label}/{form}"] = _draw_curve(ACCURACY, label, report, promised)
    curves[f"predicted/{label}/{headline}, not ruled out"] = _draw_curve(
        ACCURACY,
        label,
        report,
        [(row, row.intervals["optimistic"]) for row in report.form(headline)],
    )
    curves[f"distance/{label}/measured"] = _draw_curve(
        DISTANCE, label, report, [(row, _log10(report.error[row.requested])) for row in any_form]
    )
    for form in report.forms:
        curves[f"distance/{label}/{form}"] = _draw_curve(
            DISTANCE, label, report, [(row, _log10(row.bound)) for row in report.form(form)]
        )
    for form in report.forms:
        curves[f"tightness/{label}/{form}"] = _draw_curve(
            TIGHTNESS, label, report, [(row, _log10(row.tightness)) for row in report.form(form)]
        )
    return curves | _draw_component_curves(label, report)


def _draw_component_curves(label: str, report: BoundReport) -> dict[str, Curve]:
    """The curves of what each factor costs the code's form, or else the paper's, or else the
    headline form.
    """
    known = [form for form in ("code", "paper") if form in report.forms]
    form = known[0] if known else choose_headline_form(report)
    by_request = {row.requested: row for row in report.form(report.forms[0])}
    components = [component for component in report.components if component.form == form]
    curves = {}
    for factor in dict.fromkeys(component.factor for component in components):
        points = [
            (
                by_request[component.requested],
                component.log10 if component.log10 < math.inf else None,
            )
            for component in components
            if component.factor == factor
        ]
        y_label = f"{COST} ({form})"
        curves[f"components/{label}/{factor}"] = _draw_curve(y_label, label, report, points)
    return curves


def _draw_curve(
    y_label: str,
    label: str,
    report: BoundReport,
    points: Sequence[tuple[Prediction, Estimate | float | None]],
) -> Curve:
    """A curve over sparsity, without the points that have no value."""
    known = [
        (
            prediction.sparsity,
            value if isinstance(value, Estimate) else Estimate(value=value, n=report.images),
        )
        for prediction, value in points
        if value is not None
    ]
    return Curve(
        x=tuple(sparsity for sparsity, _ in known),
        x_label="sparsity",
        x_unit="share",
        x_scale="log",
        y_label=f"{y_label}, {label}",
        y_unit="fraction" if y_label == ACCURACY else "number",
        y=tuple(value for _, value in known),
    )


def _log10(spread: Spread | None) -> float | None:
    """The logarithm of a median, where there is one."""
    return None if spread is None else spread.log10


def _choose_image_count(macs: int) -> int:
    """The number of images by default, from the multiply-adds of one image."""
    return min(QUICK, max(10, WORK // macs))


def _describe_draws(reports: Iterable[BoundReport]) -> str:
    """The number of draws of the samplers; empty where nothing is drawn more than once."""
    trials = max(prediction.trials for report in reports for prediction in report.predictions)
    if trials == 1:
        return ""
    return f"; a sampler draws {wording.count_of(trials, 'time')} at each sparsity"


def _list_layer_rows(label: str, report: BoundReport) -> list[dict[str, Any]]:
    """The rows of the table of layers."""
    unknown = {"median": None, "p95": None, "log10_median": None}
    return [
        {
            "method": label,
            "form": prediction.form,
            "sparsity": prediction.sparsity,
            "layer": layer,
        }
        | (spread.document() if spread else unknown)
        for prediction in report.predictions
        for layer, spread in prediction.layers.items()
    ]
