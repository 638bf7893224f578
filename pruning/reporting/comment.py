"""Pieces of a comment in GitHub-flavoured Markdown: escaped text, tables, lists, folds, and the
sections of a report.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pruning import wording
from pruning.reporting import summary
from pruning.reporting.labels import name_scalar, read_curve
from pruning.reporting.tables import build_table, format_heading, name_values, select_shown
from pruning.schemas.report import Curve, Estimate, Section

COMMENT_LIMIT = 60_000
"""The largest number of characters; GitHub takes 65,536 in one comment."""
COLUMNS = 6
"""The largest number of curves side by side in a table."""
MARKS = {"good": "✅", "bad": "❌", "open": "⚠️"}
"""The marks that stand before the headline, by tone."""
OUTCOME_MARKS = {"passed": "✅ passed", "failed": "❌ failed", "undecided": "⚠️ undecided"}
"""The outcome of a gate with its mark."""
_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~])")


def escape(text: str) -> str:
    """Return the text so that Markdown shows it as it is, also in a table cell, without links,
    mentions or HTML.

    >>> print(escape("a|b <script> @all"))
    a\\|b &lt;script&gt; &#64;all
    """
    text = " ".join(text.split()).replace("&", "&amp;")
    text = _SPECIAL.sub(r"\\\1", text)
    text = text.replace("<", "&lt;").replace(">", "&gt;").replace("@", "&#64;")
    return text.replace("://", "&#58;//").replace("www.", "www&#46;")


def format_table(
    head: Iterable[str], body: Iterable[Iterable[str]], right: Iterable[int] = ()
) -> str:
    """Return a table, the columns in `right` flush right; cells are escaped already."""
    head = list(head)
    aligned = frozenset(right)
    rule = ["---:" if i in aligned else "---" for i in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *body))


def format_bullets(items: Iterable[str]) -> str:
    """Return a list of plain text, escaped."""
    return "\n".join(f"- {escape(item)}" for item in items)


def format_details(summary: str, body: str) -> str:
    """Return a part that GitHub folds under its summary."""
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>"


def format_json(text: str) -> str:
    """Return JSON in a fence that is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}json\n{text}\n{fence}"


def format_section(name: str, section: Section, digits: int, full: bool) -> list[str]:
    """Return the notes, numbers, curves and details of a section, the last two only in `full`."""
    parts = [f"### {escape(section.title)}", format_bullets(section.notes)]
    if section.scalars:
        parts.append(_tabulate_scalars(section, digits))
    if full and section.curves:
        curves = "\n\n".join(_tabulate_curves(section))
        parts.append(format_details(f"Curves of {escape(name)}", curves))
    if full and section.details:
        details = "\n\n".join(_tabulate_details(section, digits))
        parts.append(format_details(f"Details of {escape(name)}", details))
    return parts


def _tabulate_scalars(section: Section, digits: int) -> str:
    rows = []
    for key, estimate in section.scalars.items():
        samples = "–" if estimate.n is None else wording.count(estimate.n)
        name = wording.name_with_unit(name_scalar(key, section.labels), estimate.unit)
        rows.append((escape(name), wording.quantity(estimate, digits), samples))
    return format_table(["Quantity", name_values(section.scalars), "Samples"], rows, right=(1, 2))


def _tabulate_details(section: Section, digits: int) -> list[str]:
    """Return lists of records as tables, anything else as JSON."""
    parts = []
    for key, value in select_shown(section).items():
        table = build_table(value, digits, key, section.units, section.labels)
        if table is None:
            parts.append(format_json(summary.format_json({key: value})))
            continue
        text = format_table(
            map(escape, table.head), (map(escape, row) for row in table.rows), right=table.numeric
        )
        parts += [f"**{escape(format_heading(key))}**", text]
        if table.left_off:
            parts.append(f"{wording.count(table.left_off)} more rows are in the JSON report.")
    return parts


def _tabulate_curves(section: Section) -> list[str]:
    """Return tables of curves, those with equal axes and points side by side."""
    curves = section.curves
    groups: dict[tuple[str, str, tuple[float | str, ...]], list[str]] = {}
    for key, curve in curves.items():
        axes = (
            wording.name_with_unit(curve.x_label, curve.x_unit),
            wording.name_with_unit(curve.y_label, curve.y_unit),
            curve.x_names or curve.x,
        )
        groups.setdefault(axes, []).append(key)
    tables = []
    for (x_label, y_label, xs), keys in groups.items():
        x_unit = curves[keys[0]].x_unit
        for start in range(0, len(keys), COLUMNS):
            columns = keys[start : start + COLUMNS]
            rows = []
            for i, x in enumerate(xs):
                point = (
                    x if isinstance(x, str) else wording.quantity(Estimate(value=x), unit=x_unit)
                )
                rows.append((escape(point), *(_format_point(curves[key], i) for key in columns)))
            names = [read_curve(key, section.labels) for key in columns]
            head = [escape(x_label), *map(escape, names)]
            table = format_table(head, rows, right=range(len(head)))
            tables.append(f"{escape(y_label)} against {escape(x_label)}\n\n{table}")
    return tables


def _format_point(curve: Curve, i: int) -> str:
    return wording.quantity(curve.y[i], unit=curve.y_unit) if i < len(curve.y) else ""
