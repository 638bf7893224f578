"""The criteria of one job side by side, and which of them differ beyond the noise of the test
images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, ClassVar

import torch

from pruning import wording
from pruning.analysis.job_record import JobRecord, RoundRecord
from pruning.analysis.loss_changes import loss_change_since_start
from pruning.evaluations import evaluations
from pruning.measurement.measure import estimate_increase
from pruning.measurement.rank_correlation import rank_from_smallest
from pruning.schemas.recipe import Recipe
from pruning.schemas.report import Estimate, Section

CONFIDENCE = 0.95
NOTE = (
    "The best of a target is the criterion with the lowest validation error (of equals, the one "
    "listed first); it is compared on the test images, which did not choose it. Intervals of "
    "these differences are paired and hold together for all criteria of a target (Bonferroni, "
    "95 %); they cover the sampling of test images, not the spread between training runs: each "
    "criterion ran once. The loss change is that of the mean loss on training images, from the "
    "network before the first round to the network right after pruning to the target; it is "
    "ranked by its size, |loss change|, the smallest first: the loss preserved best."
)


NO_RIVALS = "One criterion: there is nothing to compare."
NO_EQUALS = (
    "Networks are compared where their sparsities are equal to a percent, and no two of these are."
)


@evaluations.register("comparison")
@dataclass(frozen=True)
class Comparison:
    """All criteria of a job in one table at every target, and the best against the others.

    The best is chosen on the validation images and compared on the test images: paired differences
    of the errors with simultaneous 95 % intervals over the m other criteria of a target
    (Bonferroni: each at 1 - 0.05 / m).
    """

    version: ClassVar[int] = 3
    by_default: ClassVar[bool] = True
    reads_losses: ClassVar[bool] = True
    supports_segmentation: ClassVar[bool] = True

    @classmethod
    def fits_recipe(cls, recipe: Recipe) -> bool:
        """Return whether the recipe has several criteria."""
        return len(recipe.criteria) > 1

    def applies(self, record: JobRecord) -> bool:
        """Return whether networks of several criteria were made."""
        return len({row.label for row in record.rounds}) > 1

    def evaluate(self, record: JobRecord) -> Section:
        """Return tables `criteria`, by target and rank, and `best_against_others`, and a sentence
        for every target.
        """
        targets = sorted({row.target for row in record.rounds if row.target is not None})
        groups = [[row for row in record.rounds if row.target == target] for target in targets]
        groups = [group for group in groups if len(group) > 1]
        if not groups:
            return Section(
                title="Comparison of criteria",
                version=self.version,
                notes=(NO_RIVALS if record.recipe.prunes else NO_EQUALS,),
            )
        contests = [_compare_with_best(group) for group in groups]
        return Section(
            title="Comparison of criteria",
            version=self.version,
            details={
                "criteria": [row for group in groups for row in _rank_criteria(group, record)],
                "best_against_others": [row for contest in contests for row in contest.rows()],
            },
            units={"sparsity": "share", "target_sparsity": "share"},
            notes=(*(contest.sentence() for contest in contests), NOTE),
        )


def _rank_criteria(group: Sequence[RoundRecord], record: JobRecord) -> list[dict[str, Any]]:
    """The rows of one target, a criterion each, the lowest error first."""
    changes = [loss_change_since_start(record.rounds, row) for row in group]
    retrained = all(row.retrained is not None for row in group)
    before = _rank([float(row.pruned.wrong.double().mean()) for row in group])
    after = _rank([float(row.measured.wrong.double().mean()) for row in group])
    loss = _rank([change.magnitude for change in changes])
    rows = []
    for index, (competitor, change) in enumerate(zip(group, changes, strict=True)):
        parameters = competitor.criterion.params.items()
        row: dict[str, Any] = {
            "target_sparsity": competitor.target,
            "criterion": competitor.label,
            "parameters": ", ".join(f"{name}={value}" for name, value in parameters),
            "sparsity": competitor.sparsity,
            "loss_change_since_start": change.document(),
            "rank_by_absolute_loss_change": loss[index],
            "error_right_after_pruning": competitor.pruned.document().error.model_dump(),
        }
        if retrained:
            row["rank_right_after_pruning"] = before[index]
            row["error_after_retraining"] = competitor.measured.document().error.model_dump()
        control = record.find_control(competitor)
        if control is not None:
            row["error_increase_over_control"] = estimate_increase(
                competitor.measured.wrong, control.measured.wrong
            ).model_dump()
        row["rank_after_retraining" if retrained else "rank_right_after_pruning"] = after[index]
        rows.append((after[index], index, row))
    # Of equal ranks, the criterion that the recipe lists first comes first.
    return [row for _, _, row in sorted(rows, key=lambda item: item[:2])]


def _rank(values: list[float]) -> list[float]:
    """The ranks of the values, 1 for the smallest."""
    return [float(rank) for rank in rank_from_smallest(torch.tensor(values, dtype=torch.float64))]


@dataclass(frozen=True)
class _Contest:
    """The best criterion of a target against each other one."""

    best: RoundRecord
    others: tuple[tuple[RoundRecord, Estimate], ...]
    """Every other criterion, with its error less that of the best."""

    def rows(self) -> list[dict[str, Any]]:
        """The rows of the table `best_against_others`."""
        return [
            {
                "target_sparsity": other.target,
                "best": self.best.label,
                "other": other.label,
                "error_difference_other_less_best": difference.model_dump(),
                "beyond_noise": _judge(difference) != "not distinguished",
            }
            for other, difference in self.others
        ]

    def sentence(self) -> str:
        """The outcome in words."""
        sparsity = wording.short_percent(self.best.target or 0.0)
        by_verdict: dict[str, list[str]] = {"worse": [], "better": [], "not distinguished": []}
        for other, difference in self.others:
            by_verdict[_judge(difference)].append(other.label)
        names = {verdict: ", ".join(labels) for verdict, labels in by_verdict.items()}
        parts = [f"worse beyond noise: {names['worse'] or 'none'}"]
        if names["better"]:
            parts.append(f"better beyond noise: {names['better']}")
        if names["not distinguished"]:
            parts.append(f"not distinguishable from it: {names['not distinguished']}")
        equals = [
            row.label for row, _ in self.others if _count_wrong(row) == _count_wrong(self.best)
        ]
        tie = f", as low as {', '.join(equals)}" if equals else ""
        return (
            f"At {sparsity}, {self.best.label} has the lowest error on the validation images{tie}. "
            f"On the test images {'; '.join(parts)}."
        )


def _compare_with_best(group: Sequence[RoundRecord]) -> _Contest:
    best = min(group, key=_count_wrong)
    # Bonferroni: the two-sided quantile of a normal at 1 - 0.05 / (number of others).
    z = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / (2 * (len(group) - 1)))
    others = [
        (row, estimate_increase(row.measured.wrong, best.measured.wrong, z))
        for row in group
        if row is not best
    ]
    return _Contest(best, tuple(sorted(others, key=lambda item: item[1].value)))


def _count_wrong(row: RoundRecord) -> float:
    """The validation images that a network gets wrong."""
    return float(row.measured.val_wrong.double().sum())


def _judge(difference: Estimate) -> str:
    """The verdict on another criterion, from its error less that of the best."""
    assert difference.low is not None
    assert difference.high is not None
    if difference.low > 0:
        return "worse"
    if difference.high < 0:
        return "better"
    return "not distinguished"
