"""What the renderings of a family say first: the verdict, the facts behind it, and its answers and
members in words.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from pruning import wording
from pruning.reporting.summary import Fact, Verdict, split_estimate
from pruning.schemas.family_report import FamilyAnswer, FamilyReport, MemberRow

DIGITS = 2
"""Decimals of a percentage."""
PARTIAL = (
    "Members are still under way, or the job ended before them; what is shown is by those "
    "that have measured."
)
CLOSING = (
    "Members and answers are measured on the test images; the law has seen those of the members, "
    "the answers are "
    "trained under a seed of their own."
)
OTHER_HALF = "missed error of the other half"
SIGMA = "missed error, standard deviation"
Outcome = Literal["kept", "not proven", "exceeded", "refused", "failed", "open"]


@dataclass(frozen=True, kw_only=True)
class AnswerRow:
    """One answer in words."""

    answer: FamilyAnswer
    outcome: Outcome
    network: str
    kept: str
    predicted: str
    measured: str
    band: str
    verdict: str
    remarks: tuple[str, ...]
    recommended: bool


def describe_outcome(answer: FamilyAnswer) -> Outcome:
    """Return how an answer stands: `not proven` where its error is above the tolerated one by less
    than its interval.
    """
    if answer.refused:
        return "refused"
    if answer.measured is None:
        return "failed" if answer.status in ("failed", "cancelled") else "open"
    low = answer.measured.value if answer.measured.low is None else answer.measured.low
    if answer.measured.value <= answer.max_error:
        return "kept"
    return "exceeded" if low > answer.max_error else "not proven"


def list_answers(report: FamilyReport) -> tuple[AnswerRow, ...]:
    """Return every answer, by its tolerated error."""
    return tuple(_answer_row(report, one) for one in report.answers)


def _answer_row(report: FamilyReport, answer: FamilyAnswer) -> AnswerRow:
    found = describe_outcome(answer)
    said = {
        "kept": "at most the tolerated error",
        "not proven": "above the tolerated error, by less than the interval",
        "exceeded": "proven above the tolerated error",
        "refused": "no network",
        "failed": f"its training {answer.status}"
        if answer.status == "failed"
        else "its training was cancelled",
        "open": "not trained for real" if answer.job is None else f"in training, {answer.status}",
    }[found]
    band = (
        "–"
        if answer.within_band is None
        else "inside the band"
        if answer.within_band
        else "outside the band"
    )
    notes = (
        *answer.notes,
        *(["beyond what was measured"] if answer.extrapolated else []),
        *([answer.refused] if answer.refused else []),
    )
    return AnswerRow(
        answer=answer,
        outcome=found,
        network=describe_network(answer),
        kept=describe_kept(answer),
        predicted="–"
        if answer.predicted is None
        else wording.percent_with_interval(answer.predicted, DIGITS),
        measured="–"
        if answer.measured is None
        else wording.percent_with_interval(answer.measured, DIGITS),
        band=band,
        verdict=said,
        remarks=notes,
        recommended=_is_recommended(report, answer),
    )


def describe_network(answer: FamilyAnswer) -> str:
    """Return which network it is and how far it is pruned."""
    if answer.depth is None or answer.width is None or answer.density is None:
        return "–"
    return f"depth {answer.depth:g}, width {answer.width:g}, density {wording.short_percent(answer.density)}"


def describe_kept(answer: FamilyAnswer) -> str:
    """Return how many parameters remain, measured where it was trained, of how many."""
    remain = (
        answer.measured_parameters if answer.measured_parameters is not None else answer.parameters
    )
    if remain is None:
        return "–"
    total = answer.unpruned_parameters
    return wording.count(round(remain)) + ("" if total is None else f" of {wording.count(total)}")


def describe_sparsest(member: MemberRow) -> str:
    """Return the least density of a member and its error there."""
    if not member.densities:
        return "–"
    density, error = min(zip(member.densities, member.errors, strict=True))
    return f"{wording.percent(error, DIGITS)} at {wording.short_percent(density)}"


def describe_unpruned(member: MemberRow) -> str:
    """Return the unpruned error of a member."""
    return "–" if member.unpruned_error is None else wording.percent(member.unpruned_error, DIGITS)


def choose_tone(member: MemberRow) -> str:
    """Return the class of a member's status on the page."""
    return {"succeeded": "", "failed": " bad", "cancelled": " bad"}.get(member.status, " warn")


def describe_verdict(report: FamilyReport) -> Verdict:
    """Return the verdict: which error is kept with how many parameters, and how good the law is."""
    subject = f"{report.architecture} family on {report.data}"
    headline, good = _headline(report)
    return Verdict(f"{subject}: {headline}", good, report.recommendation.reason, _facts(report))


def _headline(report: FamilyReport) -> tuple[str, Literal["good", "bad", "open"]]:
    rows = list_answers(report)
    best = next((row for row in rows if row.recommended), None)
    outcomes = {row.outcome for row in rows}
    if best is not None:
        if best.outcome != "kept" and best.answer.measured is not None:
            found = wording.percent(best.answer.measured.value, DIGITS)
            return (
                f"error of {found} with {best.kept} parameters, {_error(best.answer)} tolerated",
                "open",
            )
        text = f"error ≤ {_error(best.answer)} with {best.kept} parameters"
        return text, "open" if report.partial or "exceeded" in outcomes else "good"
    if report.partial:
        return (
            f"{count_measured(report)} of {wording.count_of(len(report.members), 'member')} measured",
            "open",
        )
    if report.law is None:
        return "no joint law", "bad"
    if "exceeded" in outcomes:
        return "no network that was trained keeps to its tolerated error", "bad"
    predicted = next((row for row in rows if row.outcome in ("open", "failed")), None)
    if predicted is None:
        return "no network for the tolerated error", "bad"
    text = f"error ≤ {_error(predicted.answer)} predicted with {predicted.kept} parameters"
    if predicted.outcome == "failed":
        return f"{text}, {predicted.verdict}", "bad"
    return f"{text}, not trained for real", "open"


def _facts(report: FamilyReport) -> tuple[Fact, ...]:
    others = Counter(one.status for one in report.members if one.status != "succeeded")
    left = ", ".join(
        f"{number} {'not run' if status == 'planned' else status}"
        for status, number in others.items()
    )
    facts = [Fact("Members measured", f"{count_measured(report)} of {len(report.members)}", left)]
    law, half = report.sections.get("scaling_law"), report.sections.get("invariant")
    if law is not None and SIGMA in law.scalars:
        facts.append(
            Fact(
                "Law misses by",
                wording.percent(law.scalars[SIGMA].value),
                "of the error, standard deviation",
            )
        )
    if half is not None and OTHER_HALF in half.scalars:
        found = half.scalars[OTHER_HALF]
        facts.append(
            Fact(
                "Other half missed by",
                wording.percent(found.value),
                "on average, by a law fitted to one half of the "
                "networks"
                + ("" if found.n is None else f" at {wording.count_of(found.n, 'point')}"),
            )
        )
    rows = [row for row in list_answers(report) if row.answer.predicted is not None]
    row = next((row for row in rows if row.recommended), rows[0] if rows else None)
    if row is not None:
        facts.append(Fact("Parameters kept", row.kept, row.network))
        facts.append(Fact("Error predicted", *_spanned(row.predicted, "band")))
        value, span = _spanned(row.measured, "95 % interval")
        detail = f"{span}; {row.band}" if span and row.band != "–" else span or row.verdict
        facts.append(Fact("Error measured", value, detail))
    return tuple(facts)


def count_measured(report: FamilyReport) -> int:
    """Return how many members have measured a curve."""
    return sum(one.status == "succeeded" for one in report.members)


def _spanned(text: str, name: str) -> tuple[str, str]:
    value, detail = split_estimate(text)
    return value, detail.replace("95 % interval", name)


def _error(answer: FamilyAnswer) -> str:
    return wording.percent(answer.max_error, DIGITS).replace(".00 %", " %")


def _is_recommended(report: FamilyReport, answer: FamilyAnswer) -> bool:
    chosen = report.recommendation
    return (
        chosen.checkpoint is not None
        and answer.job == chosen.job
        and answer.checkpoint == chosen.checkpoint
    )
