"""A report written to a folder in every format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pruning.reporting import RENDERERS
from pruning.schemas.family_report import FamilyReport
from pruning.schemas.report import Report


def write_report(
    report: Report | FamilyReport, folder: Path, written: Callable[[str, str, Path], None]
) -> None:
    """Write `report.<format>` in every format; `written("report", format, path)` is called after
    each.
    """
    renderers: dict[str, Callable[[Any], str]] = {
        "json": lambda report: report.model_dump_json(),
        **RENDERERS,
    }
    for format, render in renderers.items():
        path = folder / f"report.{format}"
        partial = path.with_name(f".{path.name}")
        partial.write_text(render(report))
        # written whole and then renamed: the supervisor may be reading the previous report
        partial.replace(path)
        written("report", format, path)
