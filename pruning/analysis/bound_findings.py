"""A report of bounds in words."""

from __future__ import annotations

import math
from typing import Any

from pruning import wording
from pruning.analysis.bound_report import BoundReport, Component, Prediction

ALPHA = 0.05
"""The significance level of the test of coverage."""
TIGHTEST = ("minimum", "deterministic")
"""The tightest certified forms: that of a method that draws, and that of one that does not."""
NOTES = (
    "A bound is of |z' - z| for every output of a layer and every logit z, at the test images "
    "looked at; those of layers are carried to the logits by |w'| e + own error, and through "
    "activations by their largest slope. All layers, outputs, positions and images share the "
    "failure probability.",
    "Certified are `hoeffding`, `bernstein`, `minimum` (the smaller of the two, the failure "
    "probability divided), `ball`, `ball bernstein` (the same for the most a draw could be) and, "
    "where nothing is drawn, `deterministic`, which cannot fail. `paper` is the form of the "
    "method's paper with its constants, `code` that of the released code where it is another, "
    "`data-independent` that for all inputs of norm `beta`; they rest on assumptions about inputs "
    "not seen and are not certified.",
    "Promised accuracy counts the images whose label's logit less its bound exceeds every other "
    "logit plus its own; `not ruled out` counts those it does not exclude. Intervals are at 95 % "
    "for other images and other draws, of a single draw for other images alone. Vacuous is what "
    "promises no more than chance.",
    "A factor's cost is the bound over the bound with that factor as it is at the images, one at "
    "a time: costs are log10 and need not add up. Networks here are pruned in one shot from the "
    "dense one, BatchNorm folded, and not retrained.",
)


PAPERS = ("code", "paper", "data-independent", "paper relative")
"""The forms of papers and their codes, which are not certified."""
CHECKED = ("code", "paper")
"""The forms whose assumption about inputs is checked, where the method has one."""


def choose_headline_form(report: BoundReport) -> str:
    """The form that speaks for a method: the tightest certified one."""
    return next(form for form in TIGHTEST if form in report.forms)


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
"""The factor in words, by what replaces it."""


def describe_findings(label: str, report: BoundReport) -> list[str]:
    """Say in sentences how useful and how loose a method's bounds are, and which of them failed."""
    papers = [form for form in PAPERS if form in report.forms]
    sentences = [
        f"{label}, {form}: {_describe_usefulness(report, form)}{_describe_looseness(report, form)}"
        for form in dict.fromkeys([choose_headline_form(report), *papers])
    ]
    if report.assumption is not None:
        sentences.append(
            f"{label}: what the paper assumes of inputs not seen held at "
            f"{wording.percent(report.assumption)} of the outputs of layers on the images looked "
            "at."
        )
    violated = [row for row in list_coverage_rows(label, report) if not row["holds"]]
    return sentences + [_describe_violations(label, row, report) for row in violated]


def _describe_violations(label: str, row: dict[str, Any], report: BoundReport) -> str:
    """A form that was violated more often than it says; `row` of `list_coverage_rows`."""
    form = row["form"]
    text = (
        f"{label}, {form}: violated in {row['trials_with_violation']} of {row['trials']} prunings, "
        f"more than its failure probability of {wording.percent(report.delta, 0)} explains."
    )
    if row["certified"]:
        return text
    if form in CHECKED and report.assumption is not None:
        return (
            f"{text} It is not certified: what it assumes of the inputs held at "
            f"{wording.percent(report.assumption)} of the outputs of layers."
        )
    return f"{text} It is not certified, and what it assumes is not checked."


def _describe_usefulness(report: BoundReport, form: str) -> str:
    """Say up to which sparsity a form promises more than chance."""
    useful = [prediction for prediction in report.form(form) if not prediction.vacuous]
    start = report.find_vacuous_start(form)
    if start is None:
        last = useful[-1]
        return (
            f"promises that {_promise(last)} of the images are right even at "
            f"{wording.short_percent(last.sparsity)} sparsity, where {_measure(last)} of the "
            "images are right"
        )
    first = wording.short_percent(start.sparsity)
    right = f"where {_measure(start)} of the images are right"
    if not useful:
        return f"vacuous at every sparsity tried, from {first} on, {right}"
    last = useful[-1]
    return (
        f"at {wording.short_percent(last.sparsity)} sparsity it promises that {_promise(last)} of "
        f"the images are right, and {_measure(last)} are right; vacuous from {first} sparsity on, "
        f"{right}"
    )


def _promise(prediction: Prediction) -> str:
    """The promised accuracy with its interval."""
    return wording.percent_with_interval(prediction.intervals["predicted"])


def _measure(prediction: Prediction) -> str:
    """The measured accuracy with its interval."""
    return wording.percent_with_interval(prediction.intervals["measured"])


def _describe_looseness(report: BoundReport, form: str) -> str:
    """Say how far a form is above the error where it is first vacuous, and why."""
    prediction: Prediction = report.find_vacuous_start(form) or report.form(form)[-1]
    costliest = report.find_costliest(form, prediction.requested)
    if prediction.tightness is None or prediction.tightness.log10 is None:
        return _describe_infinite_bound(prediction, costliest)
    text = (
        f". The median bound of a logit is 10^{prediction.tightness.log10:.1f} times its error "
        "there"
    )
    if costliest is not None and costliest.log10 > 0:
        compared = len(report.list_factors(form, prediction.requested))
        most = "what costs most is" if compared > 1 else "part of it is"
        text += f"; {most} {_name_factor(costliest)} (10^{costliest.log10:.1f})"
    if prediction.draws_factor is not None:
        text += f"; the median image would need {_format_times(prediction.draws_factor)} the draws"
    return text + "."


def _describe_infinite_bound(prediction: Prediction, costliest: Component | None) -> str:
    """The cause of an infinite median bound; a full stop where the bound is finite."""
    if prediction.bound is None or prediction.bound.median != math.inf:
        return "."
    cause = ", whichever single factor is as it is at the images"
    if costliest is not None:
        cause = f", for {_name_factor(costliest)} alone"
    return f". The median bound of a logit is infinite there{cause}."


def _name_factor(component: Component) -> str:
    """The factor of a component in words."""
    return FACTORS.get(component.factor, component.factor)


def _format_times(factor: float) -> str:
    """A factor in words, a power of ten if it is large.

    >>> _format_times(18.4), _format_times(85_000)
    ('18 times', '10^4.9 times')
    """
    return f"{factor:.2g} times" if factor < 1000 else f"10^{math.log10(factor):.1f} times"


def list_coverage_rows(label: str, report: BoundReport) -> list[dict[str, Any]]:
    """Rows for each form of bound: in how many trials it was violated, and whether its failure
    probability explains that.
    """
    rows = []
    for form in report.forms:
        predictions = report.form(form)
        violations = sum(prediction.broken for prediction in predictions)
        trials = sum(prediction.trials for prediction in predictions)
        failure_probability = 0.0 if form == "deterministic" else report.delta
        start = report.find_vacuous_start(form)
        rows.append(
            {
                "method": label,
                "form": form,
                "certified": predictions[0].certified,
                "trials_with_violation": violations,
                "trials": trials,
                "failure_probability": failure_probability,
                "holds": is_within_failure_probability(violations, trials, failure_probability),
                "vacuous_from_sparsity": None if start is None else start.sparsity,
            }
        )
    return rows


def is_within_failure_probability(violations: int, trials: int, delta: float) -> bool:
    """Whether so many `violations` are likely enough: P(X >= violations) > 5 % for X binomial with
    `trials` and `delta`.

    >>> (
    ...     is_within_failure_probability(0, 3, 0.05),
    ...     is_within_failure_probability(3, 3, 0.05),
    ...     is_within_failure_probability(1, 3, 0.0),
    ... )
    (True, False, False)
    """
    from scipy.stats import binom

    return bool(violations == 0 or binom.sf(violations - 1, trials, delta) > ALPHA)
