"""A report as one HTML page: no script, no request, plots inline, readable on paper."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pruning import wording as quantities
from pruning.reporting import family, summary
from pruning.reporting.plots import accuracy_plots, section_plots
from pruning.reporting.tables import heading, shown, table
from pruning.schemas.family_report import FamilyReport
from pruning.schemas.report import Report

TEMPLATES = Path(__file__).parent / "templates"
DRAWN_ABOVE = {"accuracy": ("error/", "error_before_retraining/")}
"""Curves of sections that the plots of the checkpoints show already, by how their names begin."""


def render(report: Report) -> str:
    """Return the page."""
    return _page(
        "report.html.j2",
        report,
        DRAWN_ABOVE,
        verdict=summary.verdict(report),
        rows=summary.rows(report),
        ordered=summary.ordered(report),
        digits=summary.digits(report),
        formats=summary.file_formats(report),
        plots=accuracy_plots(report),
        warnings=summary.warnings(report),
    )


def render_family(report: FamilyReport) -> str:
    """Return the page of a family."""
    return _page("family.html.j2", report, {}, verdict=family.verdict(report), rows=family.answer_rows(report),
                 digits=family.DIGITS, warnings=report.warnings)


def _page(template: str, report: Report | FamilyReport, drawn: Mapping[str, tuple[str, ...]], **context: object) -> str:
    """The template with its report, and the curves of every section less those `drawn` above."""
    plots = {name: section_plots(f"section-{i}", section, drawn.get(name, ()))
             for i, (name, section) in enumerate(report.sections.items())}
    return _environment().get_template(template).render(report=report, section_plots=plots, **context)


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
    environment.globals |= {"q": quantities, "s": summary, "f": family, "table": table, "shown": shown, "heading": heading}
    environment.filters["svg"] = Markup
    return environment
