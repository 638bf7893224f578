"""Details of a section as tables: lists of flat records, numbers in the unit that the name of their
column implies.
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
"""The largest number of columns of a table of records by name."""
ROWS = 400
"""The largest number of rows of a table; the JSON report holds the rest."""


@dataclass(frozen=True)
class Table:
    """A list of records as a page shows it."""

    head: list[str]
    rows: list[list[str]]
    numeric: frozenset[int]
    """The indices of the columns that hold numbers."""
    left_off: int
    """The number of rows that are not shown."""


def build_table(value: Any, digits: int = 1, name: str = "") -> Table | None:
    """Return a list of flat records, whose cells may be estimates, as a table, or `None` for
    anything else.

    Records by name are a table too, its numbers in the unit of the `name` of the whole.

    >>> table = build_table(
    ...     [
    ...         {"layer": "fc", "change_nats": {"value": 0.25, "low": None, "high": None, "n": 3}},
    ...         {"layer": "x"},
    ...     ]
    ... )
    >>> table.head, table.rows
    (['layer', 'change (nats)'], [['fc', '+0.250'], ['x', '']])
    """
    is_by_name = _are_records_by_name(value)
    records = [{"": key, **row} for key, row in value.items()] if is_by_name else value
    if not _are_flat_records(records):
        return None
    keys = list(dict.fromkeys(str(key) for record in records for key in record))
    numeric = frozenset(
        i for i, key in enumerate(keys) if any(_is_number(record.get(key)) for record in records)
    )
    rows = [
        [_format_cell(name if is_by_name else key, record.get(key, ""), digits) for key in keys]
        for record in records[:ROWS]
    ]
    return Table(
        head=[format_heading(key) for key in keys],
        rows=rows,
        numeric=numeric,
        left_off=max(0, len(records) - ROWS),
    )


def select_shown(details: Mapping[str, Any]) -> dict[str, Any]:
    """Return the details that a page shows: what begins with `raw_` is for programs and in the JSON
    report alone.

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


def _are_records_by_name(value: Any) -> bool:
    """Return whether a value maps names to records, none of them an estimate."""
    if not isinstance(value, Mapping) or not value:
        return False
    return all(
        isinstance(row, dict) and not _is_estimate(row) and 0 < len(row) <= COLUMNS
        for row in value.values()
    )


def _are_flat_records(value: Any) -> bool:
    """Return whether a value is a list of records whose cells are scalars or estimates."""
    if not isinstance(value, (list, tuple)) or not value:
        return False
    if not all(isinstance(record, dict) for record in value):
        return False
    cells = [cell for record in value for cell in record.values()]
    return all(isinstance(cell, SCALARS) or _is_estimate(cell) for cell in cells)


def _is_estimate(value: Any) -> bool:
    return isinstance(value, Mapping) and frozenset(value) == ESTIMATE


def _is_number(value: Any) -> bool:
    return _is_estimate(value) or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _format_cell(key: str, value: Any, digits: int) -> str:
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
