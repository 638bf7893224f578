"""Details of a section as tables: lists of flat records, numbers in the unit of their column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pruning import wording
from pruning.schemas.report import Estimate, Section, Unit

SCALARS = (str, int, float, bool, type(None))
ESTIMATE = frozenset(Estimate.model_fields)
ALWAYS = ESTIMATE - {"unit"}
"""The fields of an estimate in reports of every version."""
COLUMNS = 40
"""The largest number of columns of a table of records by name."""
ROWS = 400
"""The largest number of rows of a table; the JSON report holds the rest."""


def name_values(scalars: Mapping[str, Estimate]) -> str:
    """Return the heading of values, which says that they have intervals where any has one."""
    has_interval = any(estimate.low is not None for estimate in scalars.values())
    return "Value [95 % interval]" if has_interval else "Value"


@dataclass(frozen=True)
class Table:
    """A list of records as a page shows it."""

    head: list[str]
    rows: list[list[str]]
    numeric: frozenset[int]
    """The indices of the columns that hold numbers."""
    left_off: int
    """The number of rows that are not shown."""


def build_table(
    value: Any,
    digits: int = 1,
    name: str = "",
    units: Mapping[str, Unit] = MappingProxyType({}),
    labels: Mapping[str, str] = MappingProxyType({}),
) -> Table | None:
    """Return a list of flat records, whose cells may be estimates, as a table, or `None` for
    anything else. Columns with nested cells, and empty ones, are left to the JSON report.

    `units` are those of plain numbers by the name of their column, `labels` the words for it.
    Records by name are a table too, its numbers in the unit of the `name` of the whole; its columns
    have names of the user's.

    >>> records = [{"layer": "fc", "loss_change": 0.25}, {"layer": "x"}]
    >>> table = build_table(records, units={"loss_change": "nats_difference"})
    >>> table.head, table.rows
    (['layer', 'loss change (nats)'], [['fc', '+0.250'], ['x', '']])
    """
    is_by_name = _are_records_by_name(value)
    records = [{"": key, **row} for key, row in value.items()] if is_by_name else value
    records = _select_columns(records)
    if not _are_flat_records(records):
        return None
    keys = list(dict.fromkeys(str(key) for record in records for key in record))
    numeric = frozenset(
        i for i, key in enumerate(keys) if any(_is_number(record.get(key)) for record in records)
    )
    rows = [
        [
            _format_cell(record.get(key, ""), digits, units.get(name if is_by_name else key))
            for key in keys
        ]
        for record in records[:ROWS]
    ]
    return Table(
        head=[
            format_heading(key, _find_unit(key, records, units), {} if is_by_name else labels)
            for key in keys
        ],
        rows=rows,
        numeric=numeric,
        left_off=max(0, len(records) - ROWS),
    )


def select_shown(section: Section) -> dict[str, Any]:
    """Return the details that a page shows: hidden ones are for programs and in the JSON report
    alone.

    >>> details = {"laws": [], "raw_laws": {}}
    >>> select_shown(Section(title="Law", version=1, details=details, hidden=("raw_laws",)))
    {'laws': []}
    """
    return {key: value for key, value in section.details.items() if key not in section.hidden}


def format_heading(
    key: str, unit: Unit | None = None, labels: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Return the name of a column or a table as words, with a unit that its values lack.

    >>> format_heading("loss_change", "nats_difference"), format_heading("per_layer")
    ('loss change (nats)', 'per layer')
    """
    return wording.name_with_unit(labels.get(key, key.replace("_", " ")), unit)


def _find_unit(
    key: str, records: Sequence[Mapping[str, Any]], units: Mapping[str, Unit]
) -> Unit | None:
    """Return the unit of a column, that of its first estimate where no unit is given for it."""
    if key in units:
        return units[key]
    cells = (record.get(key) for record in records)
    estimates = (Estimate.model_validate(cell) for cell in cells if _is_estimate(cell))
    return next((estimate.unit for estimate in estimates), None)


def _are_records_by_name(value: Any) -> bool:
    """Return whether a value maps names to records, none of them an estimate."""
    if not isinstance(value, Mapping) or not value:
        return False
    return all(
        isinstance(row, dict) and not _is_estimate(row) and 0 < len(row) <= COLUMNS
        for row in value.values()
    )


def _select_columns(records: Any) -> Any:
    """Return records without the columns that are empty, or hold anything but scalars and
    estimates; the value as it is where it is no list of records, or nothing would remain.
    """
    if not isinstance(records, (list, tuple)):
        return records
    if not all(isinstance(record, dict) for record in records):
        return records
    nested = {
        key
        for record in records
        for key, cell in record.items()
        if not (isinstance(cell, SCALARS) or _is_estimate(cell))
    }
    filled = {key for record in records for key, cell in record.items() if cell is not None}
    shown = filled - nested
    flat = [{key: cell for key, cell in record.items() if key in shown} for record in records]
    return flat if all(flat) else records


def _are_flat_records(value: Any) -> bool:
    """Return whether a value is a list of records whose cells are scalars or estimates."""
    if not isinstance(value, (list, tuple)) or not value:
        return False
    if not all(isinstance(record, dict) for record in value):
        return False
    cells = [cell for record in value for cell in record.values()]
    return all(isinstance(cell, SCALARS) or _is_estimate(cell) for cell in cells)


def _is_estimate(value: Any) -> bool:
    return isinstance(value, Mapping) and ALWAYS <= frozenset(value) <= ESTIMATE


def _is_number(value: Any) -> bool:
    return _is_estimate(value) or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _format_cell(value: Any, digits: int, unit: Unit | None) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if _is_estimate(value):
        return wording.quantity(Estimate.model_validate(value), digits, unit)
    if isinstance(value, int):
        return wording.count(value)
    if isinstance(value, float):
        return wording.quantity(Estimate(value=value), digits, unit)
    return "–" if value is None else str(value)
