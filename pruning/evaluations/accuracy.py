"""Error against sparsity with exact binomial intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from pruning.evaluations import evaluations
from pruning.intervals import binomial
from pruning.measure import increase
from pruning.reporting import quantities as q
from pruning.schemas.report import Curve, Estimate, Section
from pruning.trial import Trial, TrialRound

WORST = 8
"""Of so many checkpoints the notes name the class that loses most."""


@evaluations.register("accuracy")
@dataclass(frozen=True)
class Accuracy:
    """Test error of every round against sparsity, before and after retraining, with exact binomial intervals.

    error = wrong / n with its Clopper-Pearson interval; the increase over the dense control is paired on the same images;
    errors by class show where pruning hurts most.
    """

    version: ClassVar[int] = 1

    def evaluate(self, trial: Trial) -> Section:
        """Curves `error/<criterion>`, `error_before_retraining/<criterion>`, `increase/<criterion>`; errors by class."""
        curves: dict[str, Curve] = {}
        for label in dict.fromkeys(one.label for one in trial.rounds):
            rounds = [one for one in trial.rounds if one.label == label]
            shipped = [one for one in rounds if one.retrained is not None or _never_retrained(rounds)]
            curves[f"error/{label}"] = _curve(shipped, [one.measured.document().error for one in shipped], "test error")
            if any(one.retrained is not None for one in rounds):
                curves[f"error_before_retraining/{label}"] = _curve(
                    rounds, [one.pruned.document().error for one in rounds], "test error right after pruning")
            curves[f"increase/{label}"] = _curve(
                shipped, [increase(one.measured.wrong, trial.control_measured.wrong) for one in shipped],
                "test error above the dense control's")
        targets = [one for one in trial.rounds if one.target is not None]
        networks = {"given": trial.given_measured.wrong, "control": trial.control_measured.wrong}
        networks |= {one.id: one.measured.wrong for one in targets}
        by_class = {name: _by_class(wrong, trial.data.test.labels.cpu(), trial.data.classes)
                    for name, wrong in networks.items()}
        return Section(
            title="Accuracy", version=self.version, curves=curves,
            scalars={"error/given": trial.given_measured.document().error,
                     "error/control": trial.control_measured.document().error},
            notes=("Intervals are exact binomial (Clopper-Pearson), 95 %, and cover the sampling of test images, not the "
                   "spread between training runs.", *_worst_classes(by_class)),
            details={"error_by_class": {name: {label: estimate.model_dump() for label, estimate in row.items()}
                                        for name, row in by_class.items()}})


def _never_retrained(rounds: Sequence[TrialRound]) -> bool:
    return all(one.retrained is None for one in rounds)


def _curve(rounds: Sequence[TrialRound], values: list[Estimate], y_label: str) -> Curve:
    return Curve(x=tuple(one.sparsity for one in rounds), y=tuple(values), x_label="sparsity", y_label=y_label)


def _by_class(wrong: Tensor, labels: Tensor, classes: tuple[str, ...]) -> dict[str, Estimate]:
    return {name: binomial(int(wrong[labels == index].sum()), int((labels == index).sum()))
            for index, name in enumerate(classes) if bool((labels == index).any())}


def _worst_classes(by_class: dict[str, dict[str, Any]]) -> list[str]:
    """The class that each checkpoint loses most in, of the checkpoints that lose most."""
    found: list[tuple[float, str, str]] = []
    for name, row in by_class.items():
        if name not in ("given", "control"):
            gaps = {label: estimate.value - by_class["control"][label].value for label, estimate in row.items()}
            worst = max(gaps, key=gaps.__getitem__)
            if gaps[worst] > 0:
                found.append((gaps[worst], name, worst))
    most = sorted(found, key=lambda item: -item[0])[:WORST]
    notes = [f"{name}: the class that loses most against the dense control is {worst!r} ({q.points(Estimate(value=gap))} on "
             f"{q.several(by_class[name][worst].n or 0, 'test image')}: {q.measured(by_class[name][worst])} wrong)."
             for gap, name, worst in found if (gap, name, worst) in most]
    left = len(found) - len(most)
    return notes + ([f"{q.several(left, 'other checkpoint')} of which no class loses more: see the errors by class."]
                    if left else [])
