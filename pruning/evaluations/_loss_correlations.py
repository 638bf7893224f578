"""Rank correlations of loss changes with errors over the criteria of a job, for the evaluation
`loss_model`.

The individuals are criteria, not settings: settings of one criterion are near each other in both
quantities, whatever relates them, and are no further evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from pruning import wording
from pruning.analysis.job_record import RoundRecord
from pruning.evaluations._loss_rounds import RoundLoss
from pruning.measurement.rank_correlation import (
    estimate_spearman,
    explain_no_evidence,
    permutation_p_value,
)
from pruning.schemas.report import Estimate
from pruning.seeding import generator

AFTER, BEFORE = "error after retraining", "error right after pruning"
FEWEST = 5
"""The fewest criteria: of the 24 orders of four, 2 are as good as the perfect one."""
Pairs = Mapping[str, tuple[float, float]]
"""|Delta L| and error, by criterion."""


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Spearman's rho between |Delta L| and one error over the criteria, at one target or pooled."""

    against: str
    """The error in words: `AFTER` or `BEFORE`."""
    target: float | None
    """The sparsity; None for all targets pooled."""
    criteria: int
    settings: int
    """The number of settings of these criteria."""
    rho: Estimate | None
    p: float | None

    @property
    def key(self) -> str:
        """Its name in the section's scalars, after `spearman/`."""
        where = "pooled" if self.target is None else repr(self.target)
        return f"{self.against.replace(' ', '_')}/{where}"

    @property
    def verdict(self) -> str:
        """The finding in words; begins with `no evidence` where there is none."""
        no_evidence = explain_no_evidence(self.rho, self.p, self.criteria, "criteria", FEWEST)
        if no_evidence:
            return no_evidence
        order = "lower" if self.rho and self.rho.value > 0 else "higher"
        return f"a smaller |loss change| went with {order} {self.against}"

    @property
    def positive(self) -> bool | None:
        """Whether a smaller |loss change| went with a lower error; None without evidence."""
        if self.rho is None or self.rho.low is None or self.verdict.startswith("no"):
            return None
        return self.rho.low > 0

    @property
    def value_in_words(self) -> str:
        """The rho with its interval."""
        return "undefined" if self.rho is None else wording.correlation(self.rho)

    def row(self) -> dict[str, Any]:
        """The row of the table of correlations."""
        return {
            "against": self.against,
            "target_sparsity": self.target if self.target is not None else "pooled",
            "spearman": None if self.rho is None else self.rho.model_dump(),
            "criteria": self.criteria,
            "settings": self.settings,
            "p_by_permutation": self.p,
            "verdict": self.verdict,
        }

    def sentence(self) -> str:
        """The correlation and its verdict in words."""
        where = "over all targets, which agree (ranks within each)"
        if self.target is not None:
            where = f"at {wording.short_percent(self.target)}"
        number = f"{self.criteria} criteria"
        if self.settings > self.criteria:
            number += f" (each the median of its settings, {self.settings} in all)"
        return (
            f"Spearman's rho of |loss change| and {self.against} {where}, {number}: "
            f"{self.value_in_words}; {self.verdict}."
        )


def explain_no_correlation(targets: Sequence[RoundLoss]) -> str | None:
    """Return why the targets of a job have no rank correlation; None where they have one."""
    if any(target.round.retrained is None for target in targets):
        return (
            "No rank correlation: the job does not retrain, so there is no error after "
            "retraining to set the loss change against."
        )
    criteria = len({target.round.criterion.name for target in targets})
    if criteria < FEWEST:
        return (
            "Rank correlation of the loss change and the error after retraining: no evidence: "
            f"too few criteria ({criteria}, at least {FEWEST} are needed; settings of one "
            "criterion count as one)."
        )
    return None


def correlate_with_errors(seed: int, targets: Sequence[RoundLoss]) -> list[Correlation]:
    """Correlate the loss change with both errors at each target, sparsest first, and over all
    targets where these agree.
    """
    errors: dict[str, Callable[[RoundRecord], Tensor]] = {
        AFTER: lambda row: row.measured.wrong,
        BEFORE: lambda row: row.pruned.wrong,
    }
    correlations = []
    for against, read_wrong in errors.items():
        strata = _group_by_target(targets, read_wrong)
        settings = {
            sparsity: sum(target.round.target == sparsity for target in targets)
            for sparsity in strata
        }
        alone = [
            _correlate(seed, against, sparsity, [pairs], settings[sparsity])
            for sparsity, pairs in strata.items()
        ]
        correlations += alone
        if len(strata) > 1 and targets_agree(alone):
            pooled = _correlate(seed, against, None, [*strata.values()], max(settings.values()))
            correlations.append(pooled)
    return correlations


def targets_agree(correlations: Sequence[Correlation]) -> bool:
    """Whether the correlations at all targets have one verdict, and rhos of one sign."""
    signs = {
        0 if row.rho is None else (row.rho.value > 0) - (row.rho.value < 0) for row in correlations
    }
    return len(signs) == 1 and len({row.positive for row in correlations}) == 1


def _group_by_target(
    targets: Sequence[RoundLoss], read_wrong: Callable[[RoundRecord], Tensor]
) -> dict[float, Pairs]:
    """The medians of |Delta L| and of the error over the settings of each criterion, by target
    sparsity, the sparsest first.
    """
    settings: dict[float, dict[str, list[tuple[float, float]]]] = {}
    for target in targets:
        row = target.round
        if row.target is not None:
            pair = (target.total.magnitude, float(read_wrong(row).double().mean()))
            settings.setdefault(row.target, {}).setdefault(row.criterion.name, []).append(pair)
    return {
        sparsity: {
            name: (median(x for x, _ in pairs), median(y for _, y in pairs))
            for name, pairs in settings[sparsity].items()
        }
        for sparsity in sorted(settings, reverse=True)
    }


def _correlate(
    seed: int, against: str, target: float | None, strata: Sequence[Pairs], settings: int
) -> Correlation:
    """Correlate the pairs of the criteria that all strata have, ranked within each stratum."""
    names = [name for name in strata[0] if all(name in pairs for pairs in strata)]
    rho = p = None
    if len(names) >= FEWEST:
        values = torch.tensor(
            [[pairs[name] for name in names] for pairs in strata], dtype=torch.float64
        )
        x, y = values[..., 0], values[..., 1]
        rho = estimate_spearman(x, y, generator(seed, "spearman", against, repr(target)))
        if rho is not None and rho.low is not None:
            p = permutation_p_value(x, y, generator(seed, "permutation", against, repr(target)))
    return Correlation(
        against=against, target=target, criteria=len(names), settings=settings, rho=rho, p=p
    )


def contrast_before_retraining(correlations: Sequence[Correlation]) -> list[str]:
    """Return the correlations with the error right after pruning in one line."""
    parts = []
    for correlation in correlations:
        if correlation.against == BEFORE:
            where = "pooled"
            if correlation.target is not None:
                where = wording.short_percent(correlation.target)
            parts.append(f"{where}: {correlation.value_in_words}")
    if not parts:
        return []
    return [f"For contrast, the same with the error right after pruning: {'; '.join(parts)}."]


OUTCOMES = {
    None: "no evidence either way",
    True: "no, the loss preserved better went with lower error",
    False: "yes, the loss preserved better even went with higher error",
}
"""The outcome of the paper's finding by `Correlation.positive`."""


def describe_decoupling(correlations: Sequence[Correlation]) -> list[str]:
    """Return the paper's finding that preserving the loss is not enough, with the outcome at every
    target, the sparsest first.
    """
    alone = [row for row in correlations if row.against == AFTER and row.target is not None]
    if not alone:
        return []
    if len(alone) == 1:
        seen = f"{OUTCOMES[alone[0].positive]} (Spearman's rho {alone[0].value_in_words})"
    else:
        by_target = [
            f"at {wording.short_percent(row.target or 0.0)} {OUTCOMES[row.positive]} "
            f"(Spearman's rho {row.value_in_words})"
            for row in alone
        ]
        seen = f"{'; '.join(by_target)}; each target at 95 % by itself"
    sentences = [
        "Paper's finding: preserving the loss better (a smaller |loss change|) does not order "
        f"the errors after retraining. Seen here: {seen}."
    ]
    if len(alone) > 1 and not targets_agree(alone):
        sentences.append(
            "The findings at the targets differ: no correlation over all targets together is given."
        )
    return sentences
