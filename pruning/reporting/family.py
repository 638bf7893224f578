"""The first words of every rendering of a family: the verdict, the facts behind it, and its answers
and members in words.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from pruning import wording
from pruning.measurement.needed_images import describe_proving_images
from pruning.reporting.summary import Fact, Tone, Verdict, split_estimate
from pruning.schemas.family import FamilySpec
from pruning.schemas.family_report import FamilyAnswer, FamilyReport, MemberRow
from pruning.schemas.report import Estimate

DIGITS = 2
"""The decimals of a percentage."""
PARTIAL = (
    "Members are still under way, or the job ended before them; what is shown is by those "
    "that have measured."
)
CLOSING = (
    "The law is fitted to the members' validation images where they are enough; answers are "
    "trained under a seed of their own and measured on the test images."
)
OTHER_HALF = "missed error of the other half"
SIGMA = "missed error, standard deviation"
DEFAULT_CONFIDENCE: float = FamilySpec.model_fields["confidence"].default
BANDS = {None: "–", True: "inside the band", False: "outside the band"}
"""Where a measured error lies beside its prediction; `None` before it was measured."""
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
    """Return how an answer stands: `not proven` where it measured at most the tolerated error, and
    its test images leave more than that possible.
    """
    if answer.refused:
        return "refused"
    if answer.measured is None:
        return "failed" if answer.status in ("failed", "cancelled") else "open"
    if answer.measured.value > answer.max_error:
        return "exceeded"
    # Reports of earlier versions have no outcome: what they measured is not proven.
    return "kept" if answer.outcome == "passed" else "not proven"


def list_answers(report: FamilyReport) -> tuple[AnswerRow, ...]:
    """Return every answer, by its tolerated error."""
    return tuple(_describe_answer(report, answer) for answer in report.answers)


def _describe_answer(report: FamilyReport, answer: FamilyAnswer) -> AnswerRow:
    remarks = list(answer.notes)
    if answer.extrapolated:
        remarks.append("beyond what was measured")
    if answer.refused:
        remarks.append(answer.refused)
    outcome = describe_outcome(answer)
    return AnswerRow(
        answer=answer,
        outcome=outcome,
        network=describe_network(answer),
        kept=describe_kept(answer),
        predicted=_format_error(answer.predicted),
        measured=_format_error(answer.measured),
        band=BANDS[answer.within_band],
        verdict=_describe_outcome_in_words(answer, outcome),
        remarks=tuple(remarks),
        recommended=_is_recommended(report, answer),
    )


def _describe_outcome_in_words(answer: FamilyAnswer, outcome: Outcome) -> str:
    match outcome:
        case "kept":
            return "proven to be at most the tolerated error"
        case "not proven":
            return f"at most the tolerated error, not proven{_say_what_decides(answer)}"
        case "exceeded":
            return "above the tolerated error"
        case "refused":
            return "no network"
        case "failed":
            failed = answer.status == "failed"
            return "its training failed" if failed else "its training was cancelled"
    return "not trained for real" if answer.job is None else f"in training, {answer.status}"


def _say_what_decides(answer: FamilyAnswer) -> str:
    if answer.chosen_on == "test":
        text = ": the law that chose it was fitted to the errors on these test images"
        if answer.needed is None:
            return text
        return f"{text}; {describe_proving_images(answer.needed, 'others')}"
    if answer.needed is None:
        return ""
    return f": {describe_proving_images(answer.needed)}"


def _format_error(estimate: Estimate | None) -> str:
    return "–" if estimate is None else wording.percent_with_interval(estimate, DIGITS)


def describe_network(answer: FamilyAnswer) -> str:
    """Return the depth and width of an answer's network, and how far it is pruned."""
    if answer.depth is None or answer.width is None or answer.density is None:
        return "–"
    density = wording.short_percent(answer.density)
    return f"depth {answer.depth:g}, width {answer.width:g}, density {density}"


def describe_kept(answer: FamilyAnswer) -> str:
    """Return how many parameters remain of how many: measured where the network was trained, else
    predicted.
    """
    remain: float | None = answer.measured_parameters
    if remain is None:
        remain = answer.parameters
    if remain is None:
        return "–"
    kept = wording.count(round(remain))
    total = answer.unpruned_parameters
    return kept if total is None else f"{kept} of {wording.count(total)}"


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
    headline, tone = _choose_headline(report)
    return Verdict(
        headline=f"{report.architecture} family on {report.data}: {headline}",
        tone=tone,
        sentence=report.recommendation.reason,
        facts=_list_facts(report),
    )


def _choose_headline(report: FamilyReport) -> tuple[str, Tone]:
    """Return the headline and its tone: of the recommended network, else why there is none."""
    rows = list_answers(report)
    recommended = next((row for row in rows if row.recommended), None)
    outcomes = {row.outcome for row in rows}
    if recommended is not None:
        return _describe_recommended(
            recommended, settled=not report.partial and outcomes <= {"kept"}
        )
    if report.partial:
        members = wording.count_of(len(report.members), "member")
        return f"{count_measured(report)} of {members} measured", "open"
    if report.law is None:
        return "no joint law", "bad"
    if "exceeded" in outcomes:
        text = (
            "of those that the law chose, no network that was trained keeps to its tolerated error"
        )
        return text, "bad"
    predicted = next((row for row in rows if row.outcome in ("open", "failed")), None)
    if predicted is None:
        return "no network for the tolerated error", "bad"
    tolerated = _format_tolerated(predicted.answer)
    text = f"error ≤ {tolerated} predicted with {predicted.kept} parameters"
    if predicted.outcome == "failed":
        return f"{text}, {predicted.verdict}", "bad"
    return f"{text}, not trained for real", "open"


def _describe_recommended(row: AnswerRow, *, settled: bool) -> tuple[str, Tone]:
    tolerated = _format_tolerated(row.answer)
    if row.outcome != "kept" and row.answer.measured is not None:
        measured = wording.percent(row.answer.measured.value, DIGITS)
        text = f"error of {measured} measured with {row.kept} parameters, {tolerated} tolerated"
        return f"{text}, not proven", "open"
    return f"error ≤ {tolerated} with {row.kept} parameters", "good" if settled else "open"


def _list_facts(report: FamilyReport) -> tuple[Fact, ...]:
    facts = [_count_members(report)]
    law = report.sections.get("scaling_law")
    if law is not None and SIGMA in law.scalars:
        sigma = wording.percent(law.scalars[SIGMA].value)
        facts.append(Fact("Law misses by", sigma, "of the error, standard deviation"))
    invariant = report.sections.get("invariant")
    if invariant is not None and OTHER_HALF in invariant.scalars:
        missed = invariant.scalars[OTHER_HALF]
        detail = "on average, by a law fitted to one half of the networks"
        if missed.n is not None:
            detail += f" at {wording.count_of(missed.n, 'point')}"
        facts.append(Fact("Other half missed by", wording.percent(missed.value), detail))
    rows = [row for row in list_answers(report) if row.answer.predicted is not None]
    if rows:
        row = next((row for row in rows if row.recommended), rows[0])
        facts += _list_answer_facts(row, band_level(report))
    return tuple(facts)


def _count_members(report: FamilyReport) -> Fact:
    """Return how many members have measured, and what became of the others."""
    others = Counter(member.status for member in report.members if member.status != "succeeded")
    detail = ", ".join(
        f"{number} {'not run' if status == 'planned' else status}"
        for status, number in others.items()
    )
    measured = f"{count_measured(report)} of {len(report.members)}"
    return Fact("Members measured", measured, detail)


def band_level(report: FamilyReport) -> str:
    """Return the level of the bands of predicted errors, as a percentage."""
    return wording.short_percent(report.spec.get("confidence", DEFAULT_CONFIDENCE))


def _list_answer_facts(row: AnswerRow, level: str) -> list[Fact]:
    predicted, band = split_estimate(row.predicted)
    measured, interval = split_estimate(row.measured)
    detail = interval or row.verdict
    if interval and row.band != BANDS[None]:
        detail = f"{interval}; {row.band}"
    return [
        Fact("Parameters kept", row.kept, row.network),
        Fact(
            "Error predicted",
            predicted,
            f"{band.replace('95 % interval', 'band')} at {level}" if band else "",
        ),
        Fact("Error measured", measured, detail),
    ]


def count_measured(report: FamilyReport) -> int:
    """Return how many members have measured a curve."""
    return sum(member.status == "succeeded" for member in report.members)


def _format_tolerated(answer: FamilyAnswer) -> str:
    """Return the tolerated error, whole percentages without decimals."""
    return wording.percent(answer.max_error, DIGITS).replace(".00 %", " %")


def _is_recommended(report: FamilyReport, answer: FamilyAnswer) -> bool:
    recommendation = report.recommendation
    return (
        recommendation.checkpoint is not None
        and answer.job == recommendation.job
        and answer.checkpoint == recommendation.checkpoint
    )
