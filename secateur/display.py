"""The answers of the service as a notebook shows them: short texts, tables, data frames and plots.

pandas and matplotlib are imported when they are asked for: neither is needed for anything else.
"""

from __future__ import annotations

import html
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
"""The cells of one line of a table, by column."""


def format_repr(name: str, fields: Mapping[str, Any]) -> str:
    """Return the name of a class with those fields that have a value.

    >>> format_repr("Job", {"id": "job_00000001", "stage": None})
    "Job(id='job_00000001')"
    """
    shown = [f"{field}={value!r}" for field, value in fields.items() if value is not None]
    return f"{name}({', '.join(shown)})"


def format_html(rows: Sequence[Row]) -> str:
    """Return rows as an HTML table, its columns those of the first row.

    >>> format_html([{"id": "a<b"}])
    '<table><thead><tr><th>id</th></tr></thead><tbody><tr><td>a&lt;b</td></tr></tbody></table>'
    """
    columns = list(rows[0]) if rows else []
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    lines = []
    for row in rows:
        cells = "".join(f"<td>{html.escape(format_cell(row[column]))}</td>" for column in columns)
        lines.append(f"<tr>{cells}</tr>")
    body = "".join(lines)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def format_cell(value: Any) -> str:
    """Return a value of a table as text; empty for None."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def build_dataframe(rows: Sequence[Row]) -> Any:
    """Return rows as a `pandas.DataFrame`; raises `ImportError` where pandas is missing."""
    return _load("pandas", "a data frame").DataFrame([dict(row) for row in rows])


def plot_errors(
    rows: Sequence[Row], axes: Any = None, label: str = "test error, with its 95 % interval"
) -> Any:
    """Draw the error of each criterion against sparsity, with intervals; returns the axes, the
    errors called `label`.

    Without `axes`, in a figure of its own. Raises `ImportError` where matplotlib is missing.
    """
    if axes is None:
        axes = _load("matplotlib.pyplot", "a plot").subplots()[1]
    for criterion in dict.fromkeys(row["criterion"] for row in rows):
        points = [row for row in rows if row["criterion"] == criterion]
        points = [row for row in points if None not in (row["sparsity"], row["error"])]
        points.sort(key=lambda row: float(row["sparsity"]))
        errors = [row["error"] for row in points]
        below = [_measure_distance(row, "error_low") for row in points]
        above = [_measure_distance(row, "error_high") for row in points]
        sparsities = [row["sparsity"] for row in points]
        axes.errorbar(sparsities, errors, yerr=[below, above], marker="o", label=criterion)
    axes.set_xlabel("sparsity")
    axes.set_ylabel(label)
    axes.legend()
    return axes


def _measure_distance(row: Row, limit: str) -> float:
    """Return how far a limit of the interval is from the error; 0 where there is none."""
    return 0.0 if row[limit] is None else abs(float(row[limit]) - float(row["error"]))


def _load(module: str, wanted: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        message = f"{wanted} needs {package}, which is not installed: pip install {package}"
        raise ImportError(message, name=package) from error
