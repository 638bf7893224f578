"""A report as one HTML page: no script, no request, plots inline, readable on paper."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pruning.reporting import quantities, summary
from pruning.reporting.plots import accuracy_plots, section_plots
from pruning.reporting.tables import heading, shown, table
from pruning.schemas.report import Report

TEMPLATES = Path(__file__).parent / "templates"
DRAWN_ABOVE = {"accuracy": ("error/", "error_before_retraining/")}
"""Curves of sections that the plots of the checkpoints show already, by how their names begin."""


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
                name: section_plots(f"section-{i}", section, DRAWN_ABOVE.get(name, ()))
                for i, (name, section) in enumerate(report.sections.items())
            },
        )
    )


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
    environment.globals |= {"q": quantities, "s": summary, "table": table, "shown": shown, "heading": heading}
    environment.filters["svg"] = Markup
    return environment
