"""A report as a page, a pull-request comment or a CI result; the renderers load when called."""

from __future__ import annotations

from collections.abc import Callable

from pruning.schemas.report import Report

__all__ = ["RENDERERS", "to_html", "to_junit", "to_markdown"]


def to_html(report: Report) -> str:
    """Return the report as one self-contained HTML page with inline plots; it needs no script and loads nothing."""
    from pruning.reporting.html import render

    return render(report)


def to_markdown(report: Report) -> str:
    """Return the report as GitHub-flavoured Markdown, short enough for a pull-request comment."""
    from pruning.reporting.markdown import render

    return render(report)


def to_junit(report: Report) -> str:
    """Return gates and failed evaluations as JUnit XML, so that a CI system can stop on them."""
    from pruning.reporting.junit import render

    return render(report)


RENDERERS: dict[str, Callable[[Report], str]] = {"html": to_html, "md": to_markdown, "junit": to_junit}
