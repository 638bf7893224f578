"""Pieces of a comment in GitHub-flavoured Markdown: escaped text, tables, lists, folds, and the
sections of a report.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pruning import wording
from pruning.reporting import summary
from pruning.reporting.tables import build_table, format_heading, select_shown
from pruning.schemas.report import Curve, Section

COMMENT_LIMIT = 60_000
"""Characters; GitHub takes 65,536 in one comment."""
COLUMNS = 6
MARKS = {"good": "✅", "bad": "❌", "open": "⚠️"}
"""What stands before the headline."""
_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~])")


def escape(text: str) -> str:
    """Return text that Markdown shows as it is, also in a table cell, without links, mentions or
    HTML.

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
    head, aligned = list(head), frozenset(right)
    rule = ["---:" if i in aligned else "---" for i in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *body))


def format_bullets(items: Iterable[str]) -> str:
    """Return a list of plain text, escaped."""
    return "\n".join(f"- {escape(item)}" for item in items)


def format_details(summary: str, body: str) -> str:
    """Return what is shown when asked for."""
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>"


def format_json(text: str) -> str:
    """Return JSON as it stands."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}json\n{text}\n{fence}"


def format_section(name: str, section: Section, digits: int, full: bool) -> list[str]:
    """Return the notes, numbers, curves and details of a section, the last two only in `full`."""
    parts = [f"### {escape(section.title)}", format_bullets(section.notes)]
    if section.scalars:
        parts.append(
            format_table(
                ["Quantity", "Value [95 % interval]", "Samples"],
                (
                    (
                        escape(key),
                        wording.by_name(key, value, digits),
                        "–" if value.n is None else wording.count(value.n),
                    )
                    for key, value in section.scalars.items()
                ),
                right=(1, 2),
            )
        )
    if full and section.curves:
        parts.append(
            format_details(f"Curves of {escape(name)}", "\n\n".join(_curves(section.curves)))
        )
    if full and section.details:
        parts.append(
            format_details(
                f"Details of {escape(name)}", "\n\n".join(_details(section.details, digits))
            )
        )
    return parts


def _details(details: dict[str, Any], digits: int) -> list[str]:
    """Lists of records as tables, anything else as JSON."""
    parts = []
    for key, value in select_shown(details).items():
        found = build_table(value, digits, key)
        if found is None:
            parts.append(format_json(summary.format_json({key: value})))
            continue
        text = format_table(
            map(escape, found.head), (map(escape, row) for row in found.rows), right=found.numeric
        )
        parts += [f"**{escape(format_heading(key))}**", text]
        if found.left_off:
            parts.append(f"{wording.count(found.left_off)} more rows are in the JSON report.")
    return parts


def _curves(curves: dict[str, Curve]) -> list[str]:
    """Tables of curves with equal axes and points side by side."""
    groups: dict[tuple[str, str, tuple[float | str, ...]], list[str]] = {}
    for key, curve in curves.items():
        groups.setdefault((curve.x_label, curve.y_label, curve.x_names or curve.x), []).append(key)
    tables = []
    for (x_label, y_label, xs), keys in groups.items():
        for start in range(0, len(keys), COLUMNS):
            chosen = keys[start : start + COLUMNS]
            body = [
                (
                    escape(x) if isinstance(x, str) else wording.number(x),
                    *(
                        wording.by_name(y_label, curves[key].y[i]) if i < len(curves[key].y) else ""
                        for key in chosen
                    ),
                )
                for i, x in enumerate(xs)
            ]
            tables.append(
                f"{escape(y_label)} against {escape(x_label)}\n\n"
                + format_table(
                    [escape(x_label), *map(escape, chosen)], body, right=range(1 + len(chosen))
                )
            )
    return tables
