"""A report as one HTML page: no script, no request, plots inline, readable on paper."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pruning.reporting import quantities, summary
from pruning.reporting.plots import accuracy_plots, section_plots
from pruning.schemas.report import Report

TEMPLATES = Path(__file__).parent / "templates"
SCALARS = (str, int, float, bool, type(None))


def render(report: Report) -> str:
    """Return the page."""
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            verdict=summary.verdict(report),
            rows=summary.rows(report),
            ordered=summary.ordered(report),
            digits=summary.digits(report),
            formats=summary.file_formats(report),
            plots=accuracy_plots(report),
            section_plots={
                name: section_plots(f"section-{i}", section)
                for i, (name, section) in enumerate(report.sections.items())
            },
        )
    )


def table(value: Any) -> tuple[list[str], list[list[str]]] | None:
    """Return head and rows of a list of flat records, or `None` for anything else.

    >>> table([{"layer": "fc", "bound": 0.25}, {"layer": "conv"}])
    (['layer', 'bound'], [['fc', '0.25'], ['conv', '']])
    """
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(row, dict) for row in value):
        return None
    if not all(isinstance(cell, SCALARS) for row in value for cell in row.values()):
        return None
    head = list(dict.fromkeys(str(key) for row in value for key in row))
    return head, [[_cell(row.get(key, "")) for key in head] for row in value]


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return quantities.plain(value)
    return "–" if value is None else str(value)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.globals |= {"q": quantities, "s": summary, "table": table}
    environment.filters["svg"] = Markup
    return environment
