"""A report as one HTML page: no script, no request, plots inline, readable on paper."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pruning import wording
from pruning.reporting import asked, family, runtimes, summary
from pruning.reporting.accuracy_plot import plot_accuracy
from pruning.reporting.gates import describe_limit
from pruning.reporting.labels import name_scalar
from pruning.reporting.plots import plot_section
from pruning.reporting.tables import build_table, format_heading, name_values, select_shown
from pruning.schemas.family_report import FamilyReport
from pruning.schemas.report import Report

TEMPLATES = Path(__file__).parent / "templates"
DRAWN_ABOVE = {"accuracy": ("error/", "error_before_retraining/")}
"""The prefixes of curves, by section, that the plots of the checkpoints show already."""


def render(report: Report) -> str:
    """Return the page."""
    return _render_page(
        "report.html.j2",
        report,
        DRAWN_ABOVE,
        verdict=summary.describe_verdict(report),
        rows=summary.list_rows(report),
        ordered=summary.order_checkpoints(report),
        digits=summary.choose_digits(report),
        formats=summary.list_file_formats(report),
        # a running job renders a page for every target: plots would take longer than the rest
        plots=() if report.partial else plot_accuracy(report),
        snippets=summary.list_snippets(report),
        warnings=summary.list_warnings(report),
    )


def render_family(report: FamilyReport) -> str:
    """Return the page of a family."""
    return _render_page(
        "family.html.j2",
        report,
        {},
        verdict=family.describe_verdict(report),
        rows=family.list_answers(report),
        digits=family.DIGITS,
        warnings=report.warnings,
    )


def _render_page(
    template: str,
    report: Report | FamilyReport,
    drawn: Mapping[str, tuple[str, ...]],
    **context: object,
) -> str:
    """Return the template with its report, and the curves of every section less those `drawn`
    above.
    """
    plots = {
        name: plot_section(f"section-{i}", section, drawn.get(name, ()))
        for i, (name, section) in enumerate(report.sections.items())
    }
    return (
        _create_environment()
        .get_template(template)
        .render(report=report, section_plots=plots, **context)
    )


@cache
def _create_environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.globals |= {
        "wording": wording,
        "asked": asked,
        "summary": summary,
        "runtimes": runtimes,
        "family": family,
        "table": build_table,
        "shown": select_shown,
        "heading": format_heading,
        "name_scalar": name_scalar,
        "name_values": name_values,
        "describe_limit": describe_limit,
    }
    environment.filters["svg"] = Markup
    return environment
