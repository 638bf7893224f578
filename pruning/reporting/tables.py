"""Details of a section as tables: lists of flat records, numbers in the unit that the name of their
column tells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pruning import wording
from pruning.schemas.report import Estimate

SCALARS = (str, int, float, bool, type(None))
ESTIMATE = frozenset(Estimate.model_fields)
SHARES = frozenset({"sparsity", "density"})
COLUMNS = 40
ROWS = 400
"""Longer tables are cut; the JSON report holds the rest."""


@dataclass(frozen=True)
class Table:
    """What a page shows of a list of records."""

    head: list[str]
    rows: list[list[str]]
    numeric: frozenset[int]
    """Columns that hold numbers alone."""
    left_off: int


def build_table(value: Any, digits: int = 1, name: str = "") -> Table | None:
    """Return a list of flat records, whose cells may be estimates, as a table, or `None` for
    anything else.

    Records by name are a table too, its numbers in the unit of the `name` of the whole.

    >>> found = build_table(
    ...     [
    ...         {"layer": "fc", "change_nats": {"value": 0.25, "low": None, "high": None, "n": 3}},
    ...         {"layer": "x"},
    ...     ]
    ... )
    >>> found.head, found.rows
    (['layer', 'change (nats)'], [['fc', '+0.250'], ['x', '']])
    """
    whole = (
        isinstance(value, Mapping)
        and bool(value)
        and all(
            isinstance(row, dict) and not _is_estimate(row) and 0 < len(row) <= COLUMNS
            for row in value.values()
        )
    )
    if whole:
        value = [{"": key, **row} for key, row in value.items()]
    if (
        not isinstance(value, (list, tuple))
        or not value
        or not all(isinstance(row, dict) for row in value)
    ):
        return None
    if not all(
        isinstance(cell, SCALARS) or _is_estimate(cell) for row in value for cell in row.values()
    ):
        return None
    keys = list(dict.fromkeys(str(key) for row in value for key in row))
    numeric = frozenset(
        i for i, key in enumerate(keys) if any(_is_number(row.get(key)) for row in value)
    )
    rows = [
        [_cell(name if whole else key, row.get(key, ""), digits) for key in keys]
        for row in value[:ROWS]
    ]
    return Table([format_heading(key) for key in keys], rows, numeric, max(0, len(value) - ROWS))


def select_shown(details: Mapping[str, Any]) -> dict[str, Any]:
    """The details that a page shows: what begins with `raw_` is for programs and in the JSON report
    alone.

    >>> select_shown({"laws": [], "raw_laws": {}})
    {'laws': []}
    """
    return {key: value for key, value in details.items() if not key.startswith("raw_")}


def format_heading(key: str) -> str:
    """Return the name of a column or a table as words.

    >>> format_heading("loss_change_nats"), format_heading("per_layer")
    ('loss change (nats)', 'per layer')
    """
    return re.sub(r"_nats$", " (nats)", key).replace("_", " ")


def _is_estimate(value: Any) -> bool:
    return isinstance(value, Mapping) and frozenset(value) == ESTIMATE


def _is_number(value: Any) -> bool:
    return _is_estimate(value) or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _cell(key: str, value: Any, digits: int) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if _is_estimate(value):
        return wording.by_name(key, Estimate.model_validate(value), digits)
    if isinstance(value, int):
        return wording.count(value)
    if isinstance(value, float):
        if SHARES & frozenset(key.split("_")) and 0 <= value <= 1:
            return wording.short_percent(value)
        return wording.by_name(key, Estimate(value=value), digits)
    return "–" if value is None else str(value)
