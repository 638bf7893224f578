"""What a report of bounds says in words."""

from __future__ import annotations

import math
from typing import Any

from pruning import wording as q
from pruning.analysis.bound_report import BoundReport, Prediction

ALPHA = 0.05
TIGHTEST = ("minimum", "deterministic")
"""The tightest certified form: of a method that draws, and of one that does not."""
NOTES = (
    "A bound is of |z' - z| for every output of a layer and every logit z, at the test images "
    "looked at; those of layers "
    "are carried to the logits by |w'| e + own error, and through activations by their largest "
    "slope. All layers, outputs, "
    "positions and images share the failure probability.",
    "Certified are `hoeffding`, `bernstein`, `minimum` (the smaller of the two, the failure "
    "probability divided), `ball`, "
    "`ball bernstein` (the same for the most a draw could be) and, where nothing is drawn, "
    "`deterministic`, which cannot "
    "fail. `paper` is the form of the method's paper or code with its "
    "constants; it rests on assumptions about inputs not seen and is not certified.",
    "Promised accuracy counts the images whose label's logit less its bound exceeds every other "
    "logit plus its own; `not "
    "ruled out` counts those it does not exclude. Vacuous is what promises no more than chance.",
    "A factor's cost is the bound over the bound with that factor as it is at the images, one at "
    "a time: costs are log10 "
    "and need not add up. Networks here are pruned in one shot from the dense one, BatchNorm "
    "folded, and not retrained.",
)


def choose_headline_form(report: BoundReport) -> str:
    """The form that speaks for a method: the tightest one certified."""
    return next(form for form in TIGHTEST if form in report.forms)


def describe_findings(label: str, report: BoundReport) -> list[str]:
    """What was seen of one method."""
    forms = dict.fromkeys(
        [
            choose_headline_form(report),
            *(form for form in ("paper", "paper relative") if form in report.forms),
        ]
    )
    found = [
        f"{label}, {form}: {_usefulness(report, form)}{_looseness(report, form)}" for form in forms
    ]
    if report.assumption is not None:
        found.append(
            f"{label}: what the paper assumes of inputs not seen held at "
            f"{q.percent(report.assumption)} of the "
            "outputs of layers."
        )
    wrong = [row for row in test_coverage_of_forms(label, report) if row["holds"] is False]
    found += [
        f"{label}, {row['form']}: violated in {row['trials_with_violation']} of {row['trials']} "
        "prunings, "
        + (
            f"more than its failure probability of {q.percent(report.delta, 0)} explains."
            if row["certified"]
            else "where what it assumes does not hold."
        )
        for row in wrong
    ]
    return found


def _usefulness(report: BoundReport, form: str) -> str:
    useful = [one for one in report.form(form) if not one.vacuous]
    start = report.vacuous_from(form)
    if start is None:
        last = useful[-1]
        return (
            f"promises {q.percent(last.predicted)} even at {q.short_percent(last.sparsity)} "
            "sparsity, where "
            f"{q.percent(last.measured)} of the images are right"
        )
    below = (
        f"at {q.short_percent(useful[-1].sparsity)} it promises {q.percent(useful[-1].predicted)} "
        f"({q.percent(useful[-1].measured)} are right); "
        if useful
        else "at every sparsity tried: "
    )
    return (
        f"{below}vacuous from {q.short_percent(start.sparsity)} sparsity on, where "
        f"{q.percent(start.measured)} of the images "
        f"are right"
    )


def _looseness(report: BoundReport, form: str) -> str:
    at: Prediction = report.vacuous_from(form) or report.form(form)[-1]
    most = report.responsible(form, at.requested)
    named = "" if most is None else FACTORS.get(most.factor, most.factor)
    if at.tightness is None or at.tightness.log10 is None:
        infinite = at.bound is not None and at.bound.median == math.inf
        cause = (
            f", for {named} alone"
            if most is not None
            else ", whichever single factor is as it is at the images"
        )
        return f". The median bound of a logit is infinite there{cause}." if infinite else "."
    text = f". The median bound of a logit is 10^{at.tightness.log10:.1f} times its error there"
    if most is not None and most.log10 > 0:
        text += f"; what costs most is {named} (10^{most.log10:.1f})"
    if at.draws_factor is not None:
        text += f"; the median image would need {_times(at.draws_factor)} the draws"
    return text + "."


def _times(factor: float) -> str:
    """
    >>> _times(18.4), _times(85_000)
    ('18 times', '10^4.9 times')
    """
    return f"{factor:.2g} times" if factor < 1000 else f"10^{math.log10(factor):.1f} times"


FACTORS = {
    "gains of layers as they are": "the worst case of how errors grow over depth",
    "no union bound": "the union bound",
    "C as it is here": "the constant C",
    "the sensitivity sum as it is here": "the sum of sensitivities",
    "distinct weights for draws": "repeated draws",
    "distinct channels for draws": "repeated draws",
    "distinct neurons for draws": "repeated draws",
    "K as it is here": "the constant K",
    "Bernstein for the constant 8": "the constant 8",
    "kappa 0": "kappa",
    "Delta of each input": "Delta-hat",
    "the norm of each input": "the data radius",
    "activations as they are": "the Cauchy-Schwarz inequality",
    "outgoing weights of each output": "the maximum over outputs",
    "no union over the ball": "the union over all inputs of the ball (d' ln t)",
    "sensitivities as they are here": "the worst case over images",
}
"""By what replaces a factor, the factor."""


def test_coverage_of_forms(label: str, report: BoundReport) -> list[dict[str, Any]]:
    """By form, how many prunings had any violation, and whether that is within the failure
    probability.
    """
    rows = []
    for form in report.forms:
        mine = report.form(form)
        broken, trials = sum(one.broken for one in mine), sum(one.trials for one in mine)
        rows.append(
            {
                "method": label,
                "form": form,
                "certified": mine[0].certified,
                "trials_with_violation": broken,
                "trials": trials,
                "failure_probability": 0.0 if form == "deterministic" else report.delta,
                "holds": is_within_failure_probability(
                    broken, trials, 0.0 if form == "deterministic" else report.delta
                ),
                "vacuous_from_sparsity": start.sparsity
                if (start := report.vacuous_from(form))
                else None,
            }
        )
    return rows


def is_within_failure_probability(broken: int, trials: int, delta: float) -> bool:
    """Whether so many violations are likely enough, P(X >= broken) > 5 % for X binomial with
    `trials` and `delta`.

    >>> (
    ...     is_within_failure_probability(0, 3, 0.05),
    ...     is_within_failure_probability(3, 3, 0.05),
    ...     is_within_failure_probability(1, 3, 0.0),
    ... )
    (True, False, False)
    """
    from scipy.stats import binom

    return bool(broken == 0 or binom.sf(broken - 1, trials, delta) > ALPHA)
