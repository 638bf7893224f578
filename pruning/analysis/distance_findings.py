"""Whether the distance from the dense network tells the accuracy, and whether retraining needs to
reduce it.

Source: Gordon, When are approximation bounds useful?, ICLR 2021 submission; the tests are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from pruning import wording
from pruning.measurement.rank_correlation import (
    FEWEST,
    estimate_spearman,
    explain_no_evidence,
    permutation_p_value,
)
from pruning.schemas.report import Estimate
from pruning.seeding import generator

CAUTION = (
    "Distance and accuracy both go with sparsity, and checkpoints of one job are not "
    "independent: the correlations describe these checkpoints. A perfect order (−1 or 1) has no "
    "interval, as no resample breaks it: what speaks is the permutation test, at 5 %. A "
    "difference beyond noise is so at 95 % by itself."
)
HIDDEN = "hidden layers"
MARGIN = 0.1
"""The margin of equivalence, a fraction of the error before: an error that rose or fell by less
counts as unchanged.
"""


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Spearman's rho of one distance from the dense network and the accuracy, over checkpoints."""

    phase: str
    name: str
    words: str
    """The distance in words."""
    checkpoints: int
    rho: Estimate | None
    p: float | None

    @property
    def verdict(self) -> str:
        """The finding in words; it begins with `no evidence` where there is none."""
        no_evidence = explain_no_evidence(self.rho, self.p, self.checkpoints, "checkpoints")
        if no_evidence:
            return no_evidence
        higher = self.rho is not None and self.rho.value > 0
        direction = "higher" if higher else "lower"
        return f"further from the dense network went with {direction} accuracy"

    def row(self) -> dict[str, Any]:
        """The correlation as a row of a table."""
        return {
            "phase": self.phase,
            "distance": self.words,
            "spearman": None if self.rho is None else self.rho.model_dump(),
            "checkpoints": self.checkpoints,
            "p_by_permutation": self.p,
            "verdict": self.verdict,
        }

    @staticmethod
    def sentences(correlations: Sequence[Correlation], against: str, checkpoints: int) -> list[str]:
        """The correlations of one phase in words, each verdict once with the distances that have
        it.
        """
        if checkpoints < FEWEST:
            return [
                f"Rank correlation of the distances and the {against}: no evidence: too few "
                f"checkpoints ({checkpoints}, at least {FEWEST} are needed)."
            ]
        distances: dict[str, list[str]] = {}
        for correlation in correlations:
            distance = correlation.words
            if correlation.rho is not None:
                distance += f" {wording.correlation(correlation.rho)}"
            distances.setdefault(correlation.verdict, []).append(distance)
        verdicts = "; ".join(
            f"{verdict}: {', '.join(of_verdict)}" for verdict, of_verdict in distances.items()
        )
        return [
            f"Spearman's rho of the distance from the dense network and the {against}, "
            f"{checkpoints} checkpoints: {verdicts}."
        ]


def correlate_with_accuracy(
    seed: int, phase: str, name: str, words: str, pairs: Sequence[tuple[float, float]]
) -> Correlation:
    """The correlation of pairs of a distance and an accuracy; no rho for fewer than four pairs.

    >>> pairs = [(0.1, 0.9), (0.2, 0.8), (0.5, 0.7), (0.7, 0.4), (0.9, 0.1)]
    >>> correlation = correlate_with_accuracy(0, "before", "logits", "logits", pairs)
    >>> correlation.rho.value, correlation.verdict
    (-1.0, 'further from the dense network went with lower accuracy')
    """
    if len(pairs) < FEWEST:
        return Correlation(
            phase=phase, name=name, words=words, checkpoints=len(pairs), rho=None, p=None
        )
    x, y = torch.tensor(pairs, dtype=torch.float64).T.unsqueeze(1)
    rho = estimate_spearman(x, y, generator(seed, "approximation", phase, name))
    p = None
    if rho is not None and rho.low is not None:
        p = permutation_p_value(x, y, generator(seed, "permutation", phase, name))
    return Correlation(phase=phase, name=name, words=words, checkpoints=len(pairs), rho=rho, p=p)


@dataclass(frozen=True)
class Change:
    """The effect of retraining on one checkpoint, paired on the same images."""

    checkpoint: str
    accuracy: Estimate
    """The accuracy after retraining less that before."""
    errors: Mapping[str, Estimate | None]
    """The error after retraining less that before by quantity in words; None off the scale."""
    before: float | None = None
    """The error of hidden layers before retraining; None off the scale."""

    @property
    def relative(self) -> float | None:
        """The change of the error of hidden layers as a fraction of the error before; None off the
        scale.
        """
        change = self.errors[HIDDEN]
        if change is None or not self.before:
            return None
        return change.value / self.before

    @property
    def movement(self) -> str:
        """`rose` or `fell` where the whole interval of the error of hidden layers is beyond
        `MARGIN` of the error before, `unchanged` where it is within, else `undecided`; `off the
        scale` without a finite error.
        """
        change = self.errors[HIDDEN]
        if change is None or not self.before:
            return "off the scale"
        if change.low is None or change.high is None:
            return "undecided"
        low, high = change.low / self.before, change.high / self.before
        if low > MARGIN:
            return "rose"
        if high < -MARGIN:
            return "fell"
        return "unchanged" if low > -MARGIN and high < MARGIN else "undecided"

    def sign(self, name: str) -> int | None:
        """1 for an error that rose beyond noise, -1 for one that fell, 0 for neither; None off the
        scale.
        """
        change = self.errors[name]
        return None if change is None else _find_sign(change)


def check_recovery_claim(changes: Sequence[Change]) -> list[str]:
    """The paper's claim that retraining recovers accuracy without reducing the approximation error,
    and at how many checkpoints it held here.

    >>> import textwrap
    >>> up, down = (Estimate(value=v, low=v - 0.01, high=v + 0.01) for v in (0.2, -0.2))
    >>> changes = [
    ...     Change("a", up, {HIDDEN: up}, 0.5),
    ...     Change("b", up, {HIDDEN: down}, 0.5),
    ...     Change("c", down, {HIDDEN: up}, 0.5),
    ... ]
    >>> (note,) = check_recovery_claim(changes)
    >>> print(textwrap.fill(note[83:], 90))
    Seen here: Retraining recovered accuracy by +20.0 pp at 2 of 3 checkpoints (median; beyond
    noise). At 1 of these 2 the approximation error of hidden layers did not fall by 10 % of
    it or more, which is taken for reduced here (it rose by more at 1, changed by less at 0),
    as claimed; it fell by more at 1, against the claim; judged by noise alone, it rose at 1
    and fell at 1 of these 2 (median change +0, +0 % of it).
    """
    recovered = [change for change in changes if _find_sign(change.accuracy) == 1]
    start = "Paper's claim: fine-tuning recovers accuracy without reducing approximation error. "
    checkpoints = wording.count_of(len(changes), "checkpoint")
    if not recovered:
        return [
            f"{start}Seen here: no evidence: retraining recovered accuracy beyond noise at none of "
            f"{checkpoints}."
        ]
    gain = Estimate(value=median(change.accuracy.value for change in recovered))
    notes = [
        f"{start}Seen here: Retraining recovered accuracy by {wording.points_with_interval(gain)} "
        f"at {len(recovered)} of {checkpoints} (median; beyond noise). "
        f"{_count_movements(recovered)}{_describe_size(recovered)}."
    ]
    names_by_movement: dict[str, list[str]] = {}
    for name in recovered[0].errors:
        if name != HIDDEN:
            names_by_movement.setdefault(_count_signs(recovered, name), []).append(name)
    if names_by_movement:
        movements = "; ".join(
            f"{', '.join(names)} {movement}" for movement, names in names_by_movement.items()
        )
        notes.append(
            f"At the same checkpoints the distance of the outputs, beyond noise: {movements}."
        )
    return notes


def _count_movements(recovered: Sequence[Change]) -> str:
    """At how many of the checkpoints that recovered accuracy the claim held, in words."""
    movements = [change.movement for change in recovered]
    rose, fell, unchanged = (movements.count(name) for name in ("rose", "fell", "unchanged"))
    margin = f"{100 * MARGIN:.0f} %"
    text = (
        f"At {rose + unchanged} of these {len(recovered)} the approximation error of hidden layers "
        f"did not fall by {margin} of it or more, which is taken for reduced here (it rose by more "
        f"at {rose}, changed by less at {unchanged}), as claimed; it fell by more at {fell}, "
        f"against the claim"
    )
    for name in ("undecided", "off the scale"):
        if name in movements:
            text += f"; {movements.count(name)} {name}"
    return f"{text}; judged by noise alone, it {_count_signs(recovered, HIDDEN)}"


def _count_signs(changes: Sequence[Change], name: str) -> str:
    """At how many checkpoints an error rose and at how many it fell, in words."""
    signs = [change.sign(name) for change in changes]
    for sign, verb in ((1, "rose"), (-1, "fell")):
        if signs.count(sign) == len(signs):
            return f"{verb} at all {len(signs)} of these" if len(signs) > 1 else f"{verb} there"
    text = f"rose at {signs.count(1)} and fell at {signs.count(-1)} of these {len(signs)}"
    if 0 in signs:
        text += f", {signs.count(0)} within noise"
    if None in signs:
        text += f", {signs.count(None)} off the scale"
    return text


def _describe_size(changes: Sequence[Change]) -> str:
    """The median change of the error of hidden layers: on many images noise hides little."""
    estimates = [change.errors[HIDDEN] for change in changes]
    values = [estimate.value for estimate in estimates if estimate is not None]
    if not values:
        return ""
    relative_changes = [change.relative for change in changes if change.relative is not None]
    relative = ""
    if relative_changes:
        percentage = wording.signed(f"{100 * median(relative_changes):+.2g}")
        relative = f", {percentage} % of it"
    return f" (median change {wording.signed(f'{median(values):+.2g}')}{relative})"


def _find_sign(estimate: Estimate) -> int:
    """1 for an interval above 0, -1 for one below, 0 for one that holds 0 or is not known."""
    if estimate.low is None or estimate.high is None:
        return 0
    return (estimate.low > 0) - (estimate.high < 0)
