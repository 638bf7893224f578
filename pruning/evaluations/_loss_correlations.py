"""Rank correlations of loss changes with errors over the criteria of a job, for the evaluation
`loss_model`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pruning import wording
from pruning.analysis.job_record import RoundRecord
from pruning.evaluations._loss_rounds import RoundLoss
from pruning.measurement.rank_correlation import (
    FEWEST,
    estimate_spearman,
    explain_no_evidence,
    permutation_p_value,
)
from pruning.schemas.report import Estimate
from pruning.seeding import generator

AFTER, BEFORE = "error after retraining", "error right after pruning"


@dataclass(frozen=True)
class Correlation:
    """Spearman's rho between |Delta L| and one error over the criteria, at one target or pooled."""

    against: str
    """The error in words: `AFTER` or `BEFORE`."""
    target: float | None
    """The sparsity; None for all targets pooled."""
    criteria: int
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
        no_evidence = explain_no_evidence(self.rho, self.p, self.criteria, "criteria")
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
            "p_by_permutation": self.p,
            "verdict": self.verdict,
        }

    def sentence(self) -> str:
        """The correlation and its verdict in words."""
        where = "over all targets (ranks within each)"
        if self.target is not None:
            where = f"at {wording.short_percent(self.target)}"
        return (
            f"Spearman's rho of |loss change| and {self.against} {where}, {self.criteria} "
            f"criteria: {self.value_in_words}; {self.verdict}."
        )


def explain_no_correlation(targets: Sequence[RoundLoss]) -> str | None:
    """Return why the targets of a job have no rank correlation; None where they have one."""
    if any(target.round.retrained is None for target in targets):
        return (
            "No rank correlation: the job does not retrain, so there is no error after "
            "retraining to set the loss change against."
        )
    criteria = len({target.round.label for target in targets})
    if criteria < FEWEST:
        return (
            "Rank correlation of the loss change and the error after retraining: no evidence: "
            f"too few criteria ({criteria}, at least {FEWEST} are needed)."
        )
    return None


def correlate_with_errors(seed: int, targets: Sequence[RoundLoss]) -> list[Correlation]:
    """Correlate the loss change with both errors, at each target and over all targets."""
    errors: dict[str, Callable[[RoundRecord], Tensor]] = {
        AFTER: lambda row: row.measured.wrong,
        BEFORE: lambda row: row.pruned.wrong,
    }
    correlations = []
    for against, read_wrong in errors.items():
        strata = _group_by_target(targets, read_wrong)
        for sparsity, stratum in strata.items():
            pairs = [list(stratum.values())]
            correlations.append(_correlate(seed, against, sparsity, pairs))
        complete = [
            label
            for label in dict.fromkeys(target.round.label for target in targets)
            if all(label in stratum for stratum in strata.values())
        ]
        if len(strata) > 1 and len(complete) >= FEWEST:
            pooled = [[stratum[label] for label in complete] for stratum in strata.values()]
            correlations.append(_correlate(seed, against, None, pooled))
    return correlations


def _group_by_target(
    targets: Sequence[RoundLoss], read_wrong: Callable[[RoundRecord], Tensor]
) -> dict[float, dict[str, tuple[float, float]]]:
    """Pairs (|Delta L|, error), by target sparsity and by criterion."""
    strata: dict[float, dict[str, tuple[float, float]]] = {}
    sparsities = {target.round.target for target in targets if target.round.target is not None}
    for sparsity in sorted(sparsities):
        strata[sparsity] = {
            target.round.label: (
                target.total.magnitude,
                float(read_wrong(target.round).double().mean()),
            )
            for target in targets
            if target.round.target == sparsity
        }
    return strata


def _correlate(
    seed: int, against: str, target: float | None, strata: list[list[tuple[float, float]]]
) -> Correlation:
    """Correlate the pairs, ranked within each stratum."""
    values = torch.tensor(strata, dtype=torch.float64)
    x, y = values[..., 0], values[..., 1]
    rho = estimate_spearman(x, y, generator(seed, "spearman", against, repr(target)))
    p = None
    if rho is not None and rho.low is not None:
        p = permutation_p_value(x, y, generator(seed, "permutation", against, repr(target)))
    return Correlation(against, target, values.shape[1], rho, p)


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


def describe_decoupling(correlations: Sequence[Correlation]) -> list[str]:
    """Return the paper's finding that preserving the loss is not enough, from the correlation over
    all targets.
    """
    after = [correlation for correlation in correlations if correlation.against == AFTER]
    if not after:
        return []
    widest = after[-1]  # the pooled one, else that of the last target
    outcome = {
        None: "no evidence either way",
        True: "no, the loss preserved better went with lower error",
        False: "yes, the loss preserved better even went with higher error",
    }[widest.positive]
    return [
        "Paper's finding: preserving the loss better (a smaller |loss change|) does not order "
        f"the errors after retraining. Seen here: {outcome} (Spearman's rho "
        f"{widest.value_in_words})."
    ]
