"""Predicted against true loss change, and whether the loss change orders what remains after
retraining.

Source: Laurent et al., Revisiting loss modelling for unstructured pruning, 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from pruning import wording as q
from pruning.analysis.job_record import JobRecord, RoundRecord
from pruning.analysis.loss_changes import (
    LossChange,
    StagePoint,
    list_stage_points,
    loss_change_since_start,
    mean_loss_change,
)
from pruning.analysis.loss_findings import CAUTION, FINDINGS, describe_findings
from pruning.evaluations import evaluations
from pruning.measurement.rank_correlation import (
    FEWEST,
    estimate_spearman,
    explain_no_evidence,
    permutation_p_value,
)
from pruning.schemas.report import Curve, Estimate, Section
from pruning.seeding import generator

AFTER, BEFORE = "error after retraining", "error right after pruning"
NOTES = (
    "Loss changes are in nats: mean cross-entropy right after a round's pruning less that right "
    "before it, on the same "
    "training images without augmentation, before BatchNorm is re-estimated and anything is "
    "retrained; 95 % intervals are "
    "paired over those images.",
    "The loss change says what pruning did, not what retraining will make of it: it is no "
    "forecast of the error after "
    "retraining.",
    "The paper whose findings are looked for: Laurent et al., Revisiting loss modelling for "
    "unstructured pruning, 2020.",
)
CASCADE = (
    "Every round's change is relative to the network it started from: the dense one at first and "
    "where targets are "
    "independent, else the network of the round before, retrained where the job retrains; so a "
    "network that is "
    "ruined already has little left to lose. Rank correlations and differences between criteria "
    "therefore take the "
    "losses right after pruning, against the network before the first round, which all criteria "
    "share."
)
TRUE = "change of the training loss in the round (nats)"
SINCE_START = "change of the training loss since the first round began (nats)"
STAGES = (
    "Predicted and measured changes of the stages are sums since their round began, on the "
    "calibration images of each "
    "stage (drawn anew for each)."
)


@evaluations.register("loss_model")
@dataclass(frozen=True)
class LossModelling:
    """Predicted against true loss change of every round, and its rank correlation with the error
    after retraining.

    Delta L = (1/n) sum_i [L_i(after) - L_i(before)] with its paired normal interval. Over the
    criteria of a job, Spearman's rho between |Delta L| and the test error at each target, and
    pooled with ranks within each target, has a percentile bootstrap interval over criteria.
    Evidence of an order takes an interval without 0 and a permutation test at 5 %.
    """

    version: ClassVar[int] = 1

    def applies(self, trial: JobRecord) -> bool:
        """With several criteria, or one that models the loss."""
        return any(one.losses is not None for one in trial.rounds) and (
            len({one.label for one in trial.rounds}) > 1 or any(one.stages for one in trial.rounds)
        )

    def evaluate(self, trial: JobRecord) -> Section:
        """Curves `true/<criterion>`, `predicted/...` and `measured/...`; rank correlations; the
        paper's findings.
        """
        rounds = _Round.every(trial)
        targets = [one for one in rounds if one.of.target is not None]
        correlations, reason = _correlations(trial, targets)
        findings = {name: find([one.of for one in targets]) for name, find in FINDINGS.items()}
        details: dict[str, Any] = {
            "loss_change_by_round": [one.row() for one in rounds],
            "prediction_by_stage": [row for one in rounds for row in one.stage_rows()],
            "rank_correlation": [one.row() for one in correlations],
        } | {
            name: [pair.row() for finding in found for pair in finding.pairs]
            for name, found in findings.items()
        }
        notes = [*NOTES, *_overflows(rounds), *_calibration(rounds)]
        notes += (
            [reason]
            if reason
            else [
                *(one.sentence() for one in correlations if one.against == AFTER),
                *_contrast(correlations),
                *_decoupling(correlations),
            ]
        )
        notes += [
            sentence
            for name, found in findings.items()
            for sentence in describe_findings(name, found)
        ]
        notes += [CAUTION] if any(findings.values()) else []
        notes += _context(rounds)
        return Section(
            title="Loss change and loss models",
            version=self.version,
            curves=_curves(rounds),
            notes=tuple(notes),
            scalars={f"spearman/{one.key}": one.rho for one in correlations if one.rho is not None},
            details={key: value for key, value in details.items() if value},
        )


@dataclass(frozen=True)
class _Round:
    of: RoundRecord
    change: LossChange
    total: LossChange
    """Since the network before the first round."""
    stages: list[StagePoint]

    @staticmethod
    def every(trial: JobRecord) -> list[_Round]:
        """The rounds whose losses were kept."""
        found = (
            (one, mean_loss_change(one), loss_change_since_start(trial.rounds, one))
            for one in trial.rounds
        )
        return [
            _Round(one, changed, total, list_stage_points(one.stages))
            for one, changed, total in found
            if changed and total
        ]

    def row(self) -> dict[str, Any]:
        last = self.stages[-1] if self.stages else None
        return {
            "criterion": self.of.label,
            "round": self.of.round,
            "target": self.of.target is not None,
            "sparsity": self.of.sparsity,
            "loss_change_nats": self.change.document(),
            "loss_change_since_start_nats": self.total.document(),
            "stages": len(self.stages) or None,
            "predicted_nats": last.predicted_sum if last else None,
            "measured_nats": last.measured_sum if last else None,
            "predicted_over_measured_factor": self.factor,
        }

    @property
    def factor(self) -> float | None:
        last = self.stages[-1] if self.stages else None
        return (
            last.predicted_sum / last.measured_sum
            if last and last.predicted_sum is not None and last.measured_sum
            else None
        )

    def stage_rows(self) -> list[dict[str, Any]]:
        return [
            {
                "criterion": self.of.label,
                "round": self.of.round,
                "stage": stage.number,
                "sparsity": stage.sparsity,
                "predicted_nats": stage.predicted,
                "measured_nats": stage.measured,
                "predicted_minus_measured_nats": stage.predicted - stage.measured
                if stage.predicted is not None and stage.measured is not None
                else None,
                "predicted_over_measured_factor": stage.factor,
                "images": stage.images,
            }
            for stage in self.stages
        ]


@dataclass(frozen=True)
class _Correlation:
    """Spearman's rho between |Delta L| and one error over the criteria, at one target or pooled."""

    against: str
    target: float | None
    criteria: int
    rho: Estimate | None
    p: float | None

    @property
    def key(self) -> str:
        return f"{self.against.replace(' ', '_')}/{'pooled' if self.target is None else repr(self.target)}"

    @property
    def verdict(self) -> str:
        """In words; begins with `no evidence` where there is none."""
        return (
            explain_no_evidence(self.rho, self.p, self.criteria, "criteria")
            or "a smaller |loss change| went with "
            f"{'lower' if self.rho and self.rho.value > 0 else 'higher'} {self.against}"
        )

    @property
    def positive(self) -> bool | None:
        """Whether a smaller |loss change| went with a lower error; None without evidence."""
        return (
            None
            if self.rho is None or self.rho.low is None or self.verdict.startswith("no")
            else self.rho.low > 0
        )

    def row(self) -> dict[str, Any]:
        return {
            "against": self.against,
            "target_sparsity": self.target if self.target is not None else "pooled",
            "spearman": None if self.rho is None else self.rho.model_dump(),
            "criteria": self.criteria,
            "p_by_permutation": self.p,
            "verdict": self.verdict,
        }

    def sentence(self) -> str:
        where = (
            "over all targets (ranks within each)"
            if self.target is None
            else f"at {q.short_percent(self.target)}"
        )
        return (
            f"Spearman's rho of |loss change| and {self.against} {where}, {self.criteria} "
            f"criteria: {self.shown}; "
            f"{self.verdict}."
        )

    @property
    def shown(self) -> str:
        return "undefined" if self.rho is None else q.by_name("spearman", self.rho)


def _correlations(
    trial: JobRecord, targets: Sequence[_Round]
) -> tuple[list[_Correlation], str | None]:
    """The correlations, or why there are none."""
    criteria = len({one.of.label for one in targets})
    if any(one.of.retrained is None for one in targets):
        return [], (
            "No rank correlation: the job does not retrain, so there is no error after "
            "retraining to set the loss "
            "change against."
        )
    if criteria < FEWEST:
        return [], (
            "Rank correlation of the loss change and the error after retraining: no evidence: "
            "too few criteria "
            f"({criteria}, at least {FEWEST} are needed)."
        )
    errors: dict[str, Callable[[RoundRecord], Tensor]] = {
        AFTER: lambda one: one.measured.wrong,
        BEFORE: lambda one: one.pruned.wrong,
    }
    found = []
    for against, wrong in errors.items():
        strata = {
            target: {
                one.of.label: (one.total.magnitude, float(wrong(one.of).double().mean()))
                for one in targets
                if one.of.target == target
            }
            for target in sorted({one.of.target for one in targets if one.of.target is not None})
        }
        complete = [
            label
            for label in dict.fromkeys(one.of.label for one in targets)
            if all(label in stratum for stratum in strata.values())
        ]
        for target, stratum in strata.items():
            found.append(_correlate(trial.seed, against, target, [list(stratum.values())]))
        if len(strata) > 1 and len(complete) >= FEWEST:
            found.append(
                _correlate(
                    trial.seed,
                    against,
                    None,
                    [[stratum[label] for label in complete] for stratum in strata.values()],
                )
            )
    return found, None


def _correlate(
    seed: int, against: str, target: float | None, strata: list[list[tuple[float, float]]]
) -> _Correlation:
    values = torch.tensor(strata, dtype=torch.float64)
    x, y = values[..., 0], values[..., 1]
    rho = estimate_spearman(x, y, generator(seed, "spearman", against, repr(target)))
    p = (
        None
        if rho is None or rho.low is None
        else permutation_p_value(x, y, generator(seed, "permutation", against, repr(target)))
    )
    return _Correlation(against, target, values.shape[1], rho, p)


def _contrast(correlations: Sequence[_Correlation]) -> list[str]:
    """The same with the error right after pruning, in one line."""
    found = [
        f"{'pooled' if one.target is None else q.short_percent(one.target)}: {one.shown}"
        for one in correlations
        if one.against == BEFORE
    ]
    return (
        [f"For contrast, the same with the error right after pruning: {'; '.join(found)}."]
        if found
        else []
    )


def _decoupling(correlations: Sequence[_Correlation]) -> list[str]:
    """The paper's finding that preserving the loss is not enough, from the correlation over all
    targets.
    """
    after = [one for one in correlations if one.against == AFTER]
    if not after:
        return []
    one = after[-1]
    outcome = {
        None: "no evidence either way",
        True: "no, the loss preserved better went with lower error",
        False: "yes, the loss preserved better even went with higher error",
    }[one.positive]
    return [
        "Paper's finding: preserving the loss better (a smaller |loss change|) does not order "
        "the errors after "
        f"retraining. Seen here: {outcome} (Spearman's rho {one.shown})."
    ]


def _context(rounds: Sequence[_Round]) -> list[str]:
    cascade = any(one.of.round > 1 for one in rounds)
    return ([CASCADE] if cascade else []) + ([STAGES] if any(one.stages for one in rounds) else [])


def _overflows(rounds: Sequence[_Round]) -> list[str]:
    return [
        f"{one.of.label} at {q.short_percent(one.of.sparsity)}: the loss overflows on "
        f"{q.count_of(one.total.overflowed, 'image')}; its change is off the scale and ranks last."
        for one in rounds
        if one.total.overflowed
    ]


def _calibration(rounds: Sequence[_Round]) -> list[str]:
    """How far the predictions of a round were off, criterion by criterion."""
    spans = []
    for label in dict.fromkeys(one.of.label for one in rounds if one.stages):
        factors = sorted(
            one.factor for one in rounds if one.of.label == label and one.factor is not None
        )
        if factors:
            spans.append(
                f"{label} "
                + " to ".join(dict.fromkeys(q.factor(one, 2) for one in (factors[0], factors[-1])))
            )
    return [f"Predicted over measured change of a round: {'; '.join(spans)}."] if spans else []


def _curves(rounds: Sequence[_Round]) -> dict[str, Curve]:
    """True changes by round; of loss models, predicted against measured ones since the round
    began.
    """
    curves: dict[str, Curve] = {}
    for label in dict.fromkeys(one.of.label for one in rounds):
        mine = [one for one in rounds if one.of.label == label]
        curves |= _curve(
            f"true/{label}", [(one.of.sparsity, one.change.estimate) for one in mine], TRUE
        )
        if any(one.of.round > 1 for one in rounds):
            curves |= _curve(
                f"since_start/{label}",
                [(one.of.sparsity, one.total.estimate) for one in mine],
                SINCE_START,
            )
    for label in dict.fromkeys(one.of.label for one in rounds if one.stages):
        mine = [one for one in rounds if one.of.label == label and one.stages]
        points = [point for one in mine for point in one.stages]
        rising = all(before.sparsity < after.sparsity for before, after in pairwise(points))
        groups = (
            {label: points}
            if rising
            else {
                f"{label}/{one.of.target!r}": one.stages
                for one in mine
                if one.of.target is not None
            }
        )
        for key, some in groups.items():
            y_label = f"loss change since the round began, {label} (nats)"
            curves |= _curve(
                f"predicted/{key}",
                [(one.sparsity, _plain(one.predicted_sum, one)) for one in some],
                y_label,
            )
            curves |= _curve(
                f"measured/{key}",
                [(one.sparsity, _plain(one.measured_sum, one)) for one in some],
                y_label,
            )
    return curves


def _curve(
    key: str, points: Sequence[tuple[float, Estimate | None]], y_label: str
) -> dict[str, Curve]:
    """The curve by its name, without points off the scale; nothing where no point is left."""
    shown = [(x, y) for x, y in points if y is not None]
    return (
        {
            key: Curve(
                x=tuple(x for x, _ in shown),
                y=tuple(y for _, y in shown),
                x_label="sparsity",
                y_label=y_label,
            )
        }
        if shown
        else {}
    )


def _plain(value: float | None, point: StagePoint) -> Estimate | None:
    return None if value is None else Estimate(value=value, n=point.images)
