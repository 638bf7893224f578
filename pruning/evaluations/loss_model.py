"""Predicted against true loss change, and whether the loss change orders what remains after
retraining.

Source: Laurent et al., Revisiting loss modelling for unstructured pruning, 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar

from pydantic import Field

from pruning import wording
from pruning.analysis.job_record import JobRecord
from pruning.analysis.job_size import JobSize
from pruning.analysis.loss_changes import StagePoint
from pruning.analysis.loss_findings import (
    describe_findings,
    describe_tests,
    find_all,
    takes_part,
)
from pruning.analysis.repeated_prunings import RepeatedPrunings, count_repetition_units
from pruning.evaluations import evaluations
from pruning.evaluations._loss_correlations import (
    AFTER,
    Correlation,
    contrast_before_retraining,
    correlate_with_errors,
    describe_decoupling,
    explain_no_correlation,
)
from pruning.evaluations._loss_rounds import RoundLoss
from pruning.evaluations._loss_settings import choose_penalties, draw_scatter
from pruning.evidence.criterion import PredictsLossChange
from pruning.rounds.method import PruningMethod
from pruning.schemas.recipe import Recipe
from pruning.schemas.report import Curve, Estimate, Section, Unit

NOTES = (
    "Loss changes are in nats: mean cross-entropy right after a round's pruning less that right "
    "before it, on the same training images without augmentation, before BatchNorm is "
    "re-estimated and anything is retrained; 95 % intervals are paired over those images.",
    "The loss change says what pruning did, not what retraining will make of it: it is no "
    "forecast of the error after retraining.",
    "The paper whose findings are looked for: Laurent et al., Revisiting loss modelling for "
    "unstructured pruning, 2020.",
)
CASCADE = (
    "Every round's change is relative to the network it started from: the dense one at first and "
    "where targets are independent, else the network of the round before, retrained where the job "
    "retrains; so a network that is ruined already has little left to lose. Rank correlations and "
    "differences between criteria therefore take the losses right after pruning, against the "
    "network before the first round, which all criteria share."
)
STAGES = (
    "Predicted and measured changes of the stages are sums since their round began, on the "
    "calibration images of each stage (drawn again for each)."
)
PERFECT = (
    "Intervals of rho are over resampled criteria. A perfect order (−1 or 1) has none, as no "
    "resample breaks it; an order is told only where a permutation test agrees at 5 %."
)
SEARCH = (
    "Where a criterion ran with several lambdas, half of the training images whose losses are "
    "known choose one by the smallest |loss change|, and the others tell what it is worth. "
    "Calibration images are drawn from the same training images and may be among both."
)
TRUE = "change of the training loss in the round"
UNITS: dict[str, Unit] = {
    "sparsity": "share",
    "target_sparsity": "share",
    "predicted": "nats_difference",
    "measured": "nats_difference",
    "predicted_minus_measured": "nats_difference",
    "predicted_over_measured_factor": "factor",
    "loss_change_where_chosen": "nats_difference",
}
SINCE_START = "change of the training loss since the first round began"
LABELS = {
    "spearman": "Spearman's rho of |loss change| with an error",
    "error_after_retraining": "after retraining",
    "error_right_after_pruning": "right after pruning",
    "pooled": "over all targets",
    "true": "change in each round",
    "since_start": "change since the first round began",
    "predicted": "predicted",
    "measured": "measured",
    "scatter": "error against loss change",
}
"""The words of the names of scalars, curves and columns."""


@evaluations.register("loss_model")
@dataclass(frozen=True)
class LossModelling:
    """Predicted against true loss change of every round, and its correlation with later errors.

    Delta L = (1/n) sum_i [L_i(after) - L_i(before)] with its paired interval. Over the
    criteria of a job, each the median of its settings, Spearman's rho between |Delta L| and the
    test error at each target, and pooled with ranks within each where the targets agree, has a
    percentile bootstrap interval over criteria. Evidence of an order takes five criteria, an
    interval without 0 and a permutation test of whole criteria at 5 %.
    """

    version: ClassVar[int] = 5
    asks_how_pruned: ClassVar[bool] = True
    reads_losses: ClassVar[bool] = True
    draws: Annotated[
        int,
        Field(
            ge=1,
            le=100,
            description="draws of calibration images and random choices over which differences of "
            "losses are tested: the job's own, and others for which is pruned again without "
            "retraining; with 1 nothing is tested",
        ),
    ] = 5

    @classmethod
    def fits_recipe(cls, recipe: Recipe) -> bool:
        """Return whether the recipe has several criteria, or one that predicts the loss."""
        return len(recipe.criteria) > 1 or any(
            isinstance(PruningMethod.of(recipe, method).criterion, PredictsLossChange)
            for method in recipe.criteria
        )

    def applies(self, record: JobRecord) -> bool:
        """Return whether there are several criteria, or one that models the loss."""
        several_criteria = len({row.label for row in record.rounds}) > 1
        return several_criteria or any(row.stages for row in record.rounds)

    def units(self, size: JobSize) -> int:
        """Return the work of the prunings that are repeated, at most."""
        methods = [method for method in size.recipe.criteria if takes_part(method)]
        if len(methods) < 2:
            return 0
        return count_repetition_units(size, methods, self.draws)

    def evaluate(self, record: JobRecord) -> Section:
        """Return curves `true/<criterion>`, `predicted/...`, `measured/...` and `scatter/...`, the
        chosen lambdas, rank correlations, and the paper's findings.
        """
        rounds = RoundLoss.from_record(record)
        targets = [row for row in rounds if row.round.target is not None]
        no_correlation = explain_no_correlation(targets)
        correlations = [] if no_correlation else correlate_with_errors(record.seed, targets)
        details: dict[str, Any] = {
            "loss_change_by_round": [row.row() for row in rounds],
            "prediction_by_stage": [stage for row in rounds for stage in row.stage_rows()],
            "rank_correlation": [correlation.row() for correlation in correlations],
        }
        notes = [*NOTES, *_describe_overflows(rounds), *_describe_calibration(rounds)]
        if no_correlation:
            notes.append(no_correlation)
        else:
            notes += _describe_correlations(correlations)
        repeated = RepeatedPrunings(record, self.draws)
        tables = find_all([row.round for row in targets], repeated.losses)
        for name, findings in tables.items():
            details[name] = [pair.row() for finding in findings for pair in finding.pairs]
            notes += describe_findings(name, findings)
        notes += describe_tests(tables, self.draws)
        penalties = choose_penalties(targets, record.rounds, record.seed)
        details["lambda_search"] = [penalty.row() for penalty in penalties]
        notes += [penalty.sentence() for penalty in penalties]
        if penalties:
            notes.append(SEARCH)
        if any(row.round.round > 1 for row in rounds):
            notes.append(CASCADE)
        if any(row.stages for row in rounds):
            notes.append(STAGES)
        return Section(
            title="Loss change and loss models",
            version=self.version,
            curves=_draw_curves(rounds) | draw_scatter(targets),
            notes=tuple(notes),
            scalars={
                f"spearman/{correlation.key}": correlation.rho
                for correlation in correlations
                if correlation.rho is not None
            },
            details={name: rows for name, rows in details.items() if rows},
            units=UNITS,
            labels=LABELS
            | {repr(row.round.target): _name_target(row.round.target) for row in targets},
        )


def _name_target(sparsity: float | None) -> str:
    """A target in words."""
    return "" if sparsity is None else f"at {wording.short_percent(sparsity)} sparsity"


def _describe_correlations(correlations: Sequence[Correlation]) -> list[str]:
    """The correlations with the error after retraining, and what they are set against."""
    return [
        *(row.sentence() for row in correlations if row.against == AFTER),
        *contrast_before_retraining(correlations),
        *describe_decoupling(correlations),
        PERFECT,
    ]


def _describe_overflows(rounds: Sequence[RoundLoss]) -> list[str]:
    """The rounds after which the loss overflows, in words."""
    return [
        f"{row.round.label} at {wording.short_percent(row.round.sparsity)}: the loss overflows on "
        f"{wording.count_of(row.total.overflowed, 'image')}; its change is off the scale and "
        "ranks last."
        for row in rounds
        if row.total.overflowed
    ]


def _describe_calibration(rounds: Sequence[RoundLoss]) -> list[str]:
    """The deviation of the predictions of a round, criterion by criterion, in words."""
    spans = []
    for label in dict.fromkeys(row.round.label for row in rounds if row.stages):
        factors = sorted(
            row.factor for row in rounds if row.round.label == label and row.factor is not None
        )
        if factors:
            # The least and the largest factor; once, where they read the same.
            ends = dict.fromkeys(wording.factor(end, 2) for end in (factors[0], factors[-1]))
            spans.append(f"{label} {' to '.join(ends)}")
    if not spans:
        return []
    return [f"Predicted over measured change of a round: {'; '.join(spans)}."]


def _draw_curves(rounds: Sequence[RoundLoss]) -> dict[str, Curve]:
    """True changes by round; for loss models, predicted against measured ones since the round
    began.
    """
    curves: dict[str, Curve] = {}
    cascade = any(row.round.round > 1 for row in rounds)
    for label in dict.fromkeys(row.round.label for row in rounds):
        group = [row for row in rounds if row.round.label == label]
        changes = [(row.round.sparsity, row.change.estimate) for row in group]
        curves |= _draw_curve(f"true/{label}", changes, TRUE)
        if cascade:
            totals = [(row.round.sparsity, row.total.estimate) for row in group]
            curves |= _draw_curve(f"since_start/{label}", totals, SINCE_START)
    for label in dict.fromkeys(row.round.label for row in rounds if row.stages):
        group = [row for row in rounds if row.round.label == label and row.stages]
        y_label = f"loss change since the round began, {label}"
        for name, stages in _join_stages(label, group).items():
            predicted = [
                (stage.sparsity, _estimate(stage.predicted_sum, stage)) for stage in stages
            ]
            measured = [(stage.sparsity, _estimate(stage.measured_sum, stage)) for stage in stages]
            curves |= _draw_curve(f"predicted/{name}", predicted, y_label)
            curves |= _draw_curve(f"measured/{name}", measured, y_label)
    return curves


def _join_stages(label: str, rounds: Sequence[RoundLoss]) -> dict[str, list[StagePoint]]:
    """The stages of a criterion by the name of their curve: all in one where the sparsity rises
    from round to round, else one curve for each target.
    """
    stages = [stage for row in rounds for stage in row.stages]
    if all(before.sparsity < after.sparsity for before, after in pairwise(stages)):
        return {label: stages}
    return {
        f"{label}/{row.round.target!r}": row.stages
        for row in rounds
        if row.round.target is not None
    }


def _draw_curve(
    name: str, points: Sequence[tuple[float, Estimate | None]], y_label: str
) -> dict[str, Curve]:
    """The curve by its name, without points off the scale; nothing where no point is left."""
    shown = [(sparsity, value) for sparsity, value in points if value is not None]
    if not shown:
        return {}
    sparsities, values = zip(*shown, strict=True)
    return {
        name: Curve.over_sparsity(sparsities, values, y_label=y_label, y_unit="nats_difference")
    }


def _estimate(value: float | None, stage: StagePoint) -> Estimate | None:
    return None if value is None else Estimate(value=value, n=stage.images)
