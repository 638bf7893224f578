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

from pruning import wording as q
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
    "independent: the correlations "
    "describe these checkpoints. A difference beyond noise is so at 95 % by itself."
)
HIDDEN = "hidden layers"
SLIGHT = 0.1
"""A fall of the error by a smaller fraction of it does not explain a recovery: it counts as none.
"""


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Spearman's rho of one distance from the dense network and the accuracy, over checkpoints."""

    phase: str
    name: str
    words: str
    checkpoints: int
    rho: Estimate | None
    p: float | None

    @property
    def verdict(self) -> str:
        """In words; begins with `no evidence` where there is none."""
        return (
            explain_no_evidence(self.rho, self.p, self.checkpoints, "checkpoints")
            or "further from the dense network went with "
            f"{'higher' if self.rho and self.rho.value > 0 else 'lower'} accuracy"
        )

    def row(self) -> dict[str, Any]:
        """The line of a table."""
        return {
            "phase": self.phase,
            "distance": self.words,
            "spearman": None if self.rho is None else self.rho.model_dump(),
            "checkpoints": self.checkpoints,
            "p_by_permutation": self.p,
            "verdict": self.verdict,
        }

    @staticmethod
    def sentences(found: Sequence[Correlation], against: str, checkpoints: int) -> list[str]:
        """Those of one phase, each verdict once with what it is said of."""
        if checkpoints < FEWEST:
            return [
                f"Rank correlation of the distances and the {against}: no evidence: too few "
                f"checkpoints ({checkpoints}, "
                f"at least {FEWEST} are needed)."
            ]
        shown: dict[str, list[str]] = {}
        for one in found:
            rho = "" if one.rho is None else f" {q.by_name('spearman', one.rho)}"
            shown.setdefault(one.verdict, []).append(one.words + rho)
        said = "; ".join(f"{verdict}: {', '.join(some)}" for verdict, some in shown.items())
        return [
            f"Spearman's rho of the distance from the dense network and the {against}, "
            f"{checkpoints} checkpoints: "
            f"{said}."
        ]


def correlate_with_accuracy(
    seed: int, phase: str, name: str, words: str, pairs: Sequence[tuple[float, float]]
) -> Correlation:
    """Of distances and accuracies; fewer than four pairs get none.

    >>> found = correlate_with_accuracy(
    ...     0,
    ...     "before",
    ...     "logits",
    ...     "logits",
    ...     [(0.1, 0.9), (0.2, 0.8), (0.5, 0.7), (0.7, 0.4), (0.9, 0.1)],
    ... )
    >>> found.rho.value, found.verdict
    (-1.0, 'further from the dense network went with lower accuracy')
    """
    if len(pairs) < FEWEST:
        return Correlation(
            phase=phase, name=name, words=words, checkpoints=len(pairs), rho=None, p=None
        )
    x, y = torch.tensor(pairs, dtype=torch.float64).T.unsqueeze(1)
    rho = estimate_spearman(x, y, generator(seed, "approximation", phase, name))
    p = (
        None
        if rho is None or rho.low is None
        else permutation_p_value(x, y, generator(seed, "permutation", phase, name))
    )
    return Correlation(phase=phase, name=name, words=words, checkpoints=len(pairs), rho=rho, p=p)


@dataclass(frozen=True)
class Change:
    """What retraining did to one checkpoint, paired on the same images."""

    checkpoint: str
    accuracy: Estimate
    """Accuracy after retraining less that before."""
    errors: Mapping[str, Estimate | None]
    """By quantity in words, the error after retraining less that before; None off the scale."""
    before: float | None = None
    """The error of hidden layers before retraining; None off the scale."""

    @property
    def relative(self) -> float | None:
        """By which fraction of it the error of hidden layers changed."""
        found = self.errors[HIDDEN]
        return None if found is None or not self.before else found.value / self.before

    @property
    def explains(self) -> bool:
        """Whether the error of hidden layers fell beyond noise, and by more than slightly."""
        return self.sign(HIDDEN) == -1 and (self.relative is None or self.relative <= -SLIGHT)

    def sign(self, name: str) -> int | None:
        """1 where it rose beyond noise, -1 where it fell, 0 where neither can be told; None off the
        scale.
        """
        found = self.errors[name]
        return None if found is None else _sign(found)


def check_recovery_claim(changes: Sequence[Change]) -> list[str]:
    """The paper's claim that retraining recovers accuracy without reducing the approximation error,
    as it was seen here.

    >>> up, down = (Estimate(value=v, low=v - 0.01, high=v + 0.01) for v in (0.2, -0.2))
    >>> changes = [Change("a", up, {HIDDEN: up}, 0.5), Change("b", up, {HIDDEN: down}, 0.5), Change("c", down, {HIDDEN: up})]
    >>> check_recovery_claim(changes)[0][83:]
    'Seen here: at some checkpoints, not at others. Retraining recovered accuracy by +20.0 pp at 2 of 3 checkpoints \
    (median; beyond noise), while the approximation error of hidden layers rose at 1 and fell at 1 of these 2 (median \
    change +0, +0 % of it; a fall by less than 10 % counts as none).'
    """
    recovered = [one for one in changes if _sign(one.accuracy) == 1]
    start = "Paper's claim: fine-tuning recovers accuracy without reducing approximation error. "
    if not recovered:
        return [
            f"{start}Seen here: no evidence: retraining recovered accuracy beyond noise at none of "
            f"{q.count_of(len(changes), 'checkpoint')}."
        ]
    explained = sum(one.explains for one in recovered)
    seen = (
        "no evidence either way"
        if not any(one.sign(HIDDEN) for one in recovered)
        else "yes"
        if not explained
        else "no, the opposite"
        if explained == len(recovered)
        else "at some checkpoints, not at others"
    )
    gains = q.points_with_interval(Estimate(value=median(one.accuracy.value for one in recovered)))
    notes = [
        f"{start}Seen here: {seen}. Retraining recovered accuracy by {gains} at {len(recovered)} "
        "of "
        f"{q.count_of(len(changes), 'checkpoint')} (median; beyond noise), while the "
        "approximation error of hidden "
        f"layers {_moved(recovered, HIDDEN)}{_size(recovered)}."
    ]
    others: dict[str, list[str]] = {}
    for name in recovered[0].errors:
        if name != HIDDEN:
            others.setdefault(_moved(recovered, name), []).append(name)
    said = "; ".join(f"{', '.join(names)} {moved}" for moved, names in others.items())
    return notes + (
        [f"At the same checkpoints the distance of the outputs, beyond noise: {said}."]
        if others
        else []
    )


def _moved(changes: Sequence[Change], name: str) -> str:
    signs = [one.sign(name) for one in changes]
    for sign, verb in ((1, "rose"), (-1, "fell")):
        if signs.count(sign) == len(signs):
            return f"{verb} at all {len(signs)} of these" if len(signs) > 1 else f"{verb} there"
    text = f"rose at {signs.count(1)} and fell at {signs.count(-1)} of these {len(signs)}"
    text += f", {signs.count(0)} within noise" if 0 in signs else ""
    return text + (f", {signs.count(None)} off the scale" if None in signs else "")


def _size(changes: Sequence[Change]) -> str:
    """By how much the error of hidden layers changed: on many images noise hides little."""
    found = [value.value for one in changes if (value := one.errors[HIDDEN]) is not None]
    if not found:
        return ""
    relative = [one.relative for one in changes if one.relative is not None]
    said = (
        (
            f", {q.signed(f'{100 * median(relative):+.2g}')} % of it; a fall by less than "
            f"{100 * SLIGHT:.0f} % counts as "
            "none"
        )
        if relative
        else ""
    )
    return f" (median change {q.signed(f'{median(found):+.2g}')}{said})"


def _sign(found: Estimate) -> int:
    if found.low is None or found.high is None:
        return 0
    return (found.low > 0) - (found.high < 0)
