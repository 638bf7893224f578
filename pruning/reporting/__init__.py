"""A report, of a job or of a family, as a page, a pull-request comment or a CI result; the
renderers load when called.
"""

from __future__ import annotations

from collections.abc import Callable

from pruning.schemas.family_report import FamilyReport
from pruning.schemas.report import Report

__all__ = ["RENDERERS", "to_html", "to_junit", "to_markdown"]


def to_html(report: Report | FamilyReport) -> str:
    """Return the report as one self-contained HTML page with inline plots; it needs no script and
    loads nothing.
    """
    from pruning.reporting import html

    return html.render(report) if isinstance(report, Report) else html.render_family(report)


def to_markdown(report: Report | FamilyReport) -> str:
    """Return the report as GitHub-flavoured Markdown, short enough for a pull-request comment."""
    from pruning.reporting import family_markdown, markdown

    return markdown.render(report) if isinstance(report, Report) else family_markdown.render(report)


def to_junit(report: Report | FamilyReport) -> str:
    """Return gates, answers and what failed as JUnit XML, so that a CI system can stop on them."""
    from pruning.reporting import junit

    return junit.render(report) if isinstance(report, Report) else junit.render_family(report)


RENDERERS: dict[str, Callable[[Report | FamilyReport], str]] = {
    "html": to_html,
    "md": to_markdown,
    "junit": to_junit,
}
