"""A family's report as GitHub-flavoured Markdown: the verdict, the answers and the members."""

from __future__ import annotations

from pruning import wording
from pruning.reporting import family, summary
from pruning.reporting.comment import (
    COMMENT_LIMIT,
    MARKS,
    escape,
    format_bullets,
    format_details,
    format_json,
    format_section,
    format_table,
)
from pruning.schemas.family_report import FamilyReport


def render(report: FamilyReport) -> str:
    """Return the comment; members, curves and spec are left out, with a note, where it would grow
    too long.
    """
    text = _write_document(report, full=True)
    return text if len(text) <= COMMENT_LIMIT else _write_document(report, full=False)


def _write_document(report: FamilyReport, full: bool) -> str:
    verdict = family.describe_verdict(report)
    parts = [f"## {MARKS[verdict.tone]} {escape(verdict.headline)}"]
    if report.partial:
        parts.append(f"**Partial.** {family.PARTIAL}")
    parts.append(
        format_table(
            ["", "", ""],
            (
                (f"**{fact.label}**", escape(fact.value), escape(fact.detail))
                for fact in verdict.facts
            ),
        )
    )
    parts.append(escape(verdict.sentence))
    if report.warnings:
        parts += ["### Warnings", format_bullets(report.warnings)]
    if report.answers:
        parts += ["### Answers", _tabulate_answers(report)]
    if full:
        parts.append(
            format_details(
                f"Members: {family.count_measured(report)} of {len(report.members)} measured",
                _tabulate_members(report),
            )
        )
    for name, section in report.sections.items():
        parts += format_section(name, section, family.DIGITS, full=False)
    if report.failures:
        parts += [
            "### Failures",
            format_bullets(
                f"{failure.name} ({failure.code}): {failure.message}" for failure in report.failures
            ),
        ]
    parts.append(f"<sub>{escape(f'secateur {report.secateur}; job {report.job_id}')}</sub>")
    if full:
        parts.append(format_details("Spec", format_json(summary.format_json(report.spec))))
    left = "Curves and details" if full else "Members, curves, details and spec"
    parts.append(f"{left} are left out here for length; the HTML and JSON reports hold them.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _tabulate_answers(report: FamilyReport) -> str:
    head = [
        "Tolerated error",
        "Network",
        "Parameters kept",
        f"Predicted error [{family.band_level(report)} band]",
        "Measured error [95 % interval]",
        "",
        "",
        "Job",
    ]
    return format_table(
        head,
        (
            (
                f"**{wording.percent(row.answer.max_error, family.DIGITS)}**"
                + (" (recommended)" if row.recommended else ""),
                escape(row.network),
                row.kept,
                row.predicted,
                row.measured,
                row.band,
                escape("; ".join((row.verdict, *row.remarks))),
                escape(row.answer.job or "–"),
            )
            for row in family.list_answers(report)
        ),
        right=(2, 3, 4),
    )


def _tabulate_members(report: FamilyReport) -> str:
    head = [
        "Status",
        "Depth",
        "Width",
        "Images",
        "Seed",
        "Unpruned error",
        "Error at the least density",
        "Job",
    ]
    return format_table(
        head,
        (
            (
                member.status,
                f"{member.depth:g}",
                f"{member.width:g}",
                wording.short_percent(member.fraction),
                str(member.seed),
                family.describe_unpruned(member),
                family.describe_sparsest(member),
                escape(member.job or "–"),
            )
            for member in report.members
        ),
        right=range(1, 7),
    )
