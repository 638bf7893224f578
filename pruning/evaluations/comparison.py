"""The criteria of one job side by side, and which of them differ beyond the noise of the test
images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, ClassVar

import torch

from pruning import wording as q
from pruning.analysis.job_record import JobRecord, RoundRecord
from pruning.analysis.loss_changes import LossChange, loss_change_since_start
from pruning.evaluations import evaluations
from pruning.measurement.measure import estimate_increase
from pruning.measurement.rank_correlation import rank_from_smallest
from pruning.schemas.report import Estimate, Section

CONFIDENCE = 0.95


@evaluations.register("comparison")
@dataclass(frozen=True)
class Comparison:
    """All criteria of a job in one table at every target, and the best of each target against the
    others.

    The best is chosen on the validation images and compared on the test images: paired differences
    of the errors with simultaneous 95 % intervals over the m other criteria of a target
    (Bonferroni: each at 1 - 0.05 / m).
    """

    version: ClassVar[int] = 1
    of_pixels: ClassVar[bool] = True

    def applies(self, trial: JobRecord) -> bool:
        """With several criteria."""
        return len({one.label for one in trial.rounds}) > 1

    def evaluate(self, trial: JobRecord) -> Section:
        """Tables `criteria`, by target and rank, and `best_against_others`; a sentence for every
        target.
        """
        groups = [
            [one for one in trial.rounds if one.target == target]
            for target in sorted({one.target for one in trial.rounds if one.target is not None})
        ]
        groups = [group for group in groups if len(group) > 1]
        if not groups:
            return Section(
                title="Comparison of criteria",
                version=self.version,
                notes=("One criterion: there is nothing to compare.",),
            )
        contests = [_contest(group) for group in groups]
        return Section(
            title="Comparison of criteria",
            version=self.version,
            details={
                "criteria": [row for group in groups for row in _rows(group, trial)],
                "best_against_others": [row for contest in contests for row in contest.rows()],
            },
            notes=(*(contest.sentence() for contest in contests), NOTE),
        )


NOTE = (
    "The best of a target is the criterion with the lowest validation error (of equals, the one "
    "listed first); it is "
    "compared on the test images, which did not choose it. Intervals of these differences are "
    "paired and hold together "
    "for all criteria of a target (Bonferroni, 95 %); they cover the sampling of test images, "
    "not the spread between "
    "training runs: each criterion ran once. The loss change is that of the mean loss on "
    "training images, from the "
    "network before the first round to the network right after pruning to the target; it is "
    "ranked by its size, "
    "|loss change|, the smallest first: the loss preserved best."
)


def _rows(group: Sequence[RoundRecord], trial: JobRecord) -> list[dict[str, Any]]:
    """One line a criterion, the lowest error first."""
    changes: list[LossChange | None] = [loss_change_since_start(trial.rounds, one) for one in group]
    retrained = all(one.retrained is not None for one in group)
    before = _ranks([float(one.pruned.wrong.double().mean()) for one in group])
    after = _ranks([float(one.measured.wrong.double().mean()) for one in group])
    loss = _ranks([math.inf if found is None else found.magnitude for found in changes])
    rows = []
    for index, (one, found) in enumerate(zip(group, changes, strict=True)):
        row: dict[str, Any] = {
            "target_sparsity": one.target,
            "criterion": one.label,
            "parameters": ", ".join(
                f"{name}={value}" for name, value in one.criterion.params.items()
            ),
            "sparsity": one.sparsity,
        }
        if found is not None:
            row["loss_change_since_start_nats"] = found.document()
            row["rank_by_absolute_loss_change"] = loss[index]
        row["error_right_after_pruning"] = one.pruned.document().error.model_dump()
        if retrained:
            row["rank_right_after_pruning"] = before[index]
            row["error_after_retraining"] = one.measured.document().error.model_dump()
        row["error_increase_over_control"] = estimate_increase(
            one.measured.wrong, trial.control_measured.wrong
        ).model_dump()
        row["rank_after_retraining" if retrained else "rank_right_after_pruning"] = after[index]
        rows.append((after[index], index, row))
    return [row for _, _, row in sorted(rows, key=lambda item: item[:2])]


def _ranks(values: list[float]) -> list[float]:
    return [float(rank) for rank in rank_from_smallest(torch.tensor(values, dtype=torch.float64))]


@dataclass(frozen=True)
class _Contest:
    """The best criterion of a target against each other one."""

    best: RoundRecord
    others: tuple[tuple[RoundRecord, Estimate], ...]
    """With its error less that of the best."""

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "target_sparsity": one.target,
                "best": self.best.label,
                "other": one.label,
                "error_difference_other_less_best": found.model_dump(),
                "beyond_noise": _verdict(found) != "not told apart",
            }
            for one, found in self.others
        ]

    def sentence(self) -> str:
        at = q.short_percent(self.best.target or 0.0)
        by = {
            verdict: [one.label for one, found in self.others if _verdict(found) == verdict]
            for verdict in ("worse", "better", "not told apart")
        }
        text = f"At {at}, {self.best.label} is best on the validation images. On the test images "
        parts = [f"worse beyond noise: {', '.join(by['worse']) or 'none'}"]
        if by["better"]:
            parts.append(f"better beyond noise: {', '.join(by['better'])}")
        if by["not told apart"]:
            parts.append(f"not to be told apart from it: {', '.join(by['not told apart'])}")
        return text + "; ".join(parts) + "."


def _contest(group: Sequence[RoundRecord]) -> _Contest:
    best = min(group, key=lambda one: float(one.measured.val_wrong.double().sum()))
    z = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / (2 * (len(group) - 1)))
    others = []
    for one in group:
        if one is not best:
            mine, theirs = one.measured.wrong, best.measured.wrong
            others.append((one, estimate_increase(mine, theirs, z)))
    return _Contest(best, tuple(sorted(others, key=lambda item: item[1].value)))


def _verdict(found: Estimate) -> str:
    assert found.low is not None
    assert found.high is not None
    return "worse" if found.low > 0 else "better" if found.high < 0 else "not told apart"
