"""The output of the command: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

out = Console(markup=False, highlight=False, emoji=False)
err = Console(stderr=True, markup=False, highlight=False, emoji=False)

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")
]


def print_json(document: Any) -> None:
    """Print a JSON document on stdout."""
    typer.echo(json.dumps(document, indent=2))


def tell(line: str) -> None:
    """Print a line of result on stdout, never broken."""
    out.print(line, soft_wrap=True)


def say(message: str) -> None:
    """Print a message to the user that is not a result, on stderr."""
    err.print(message, soft_wrap=True)


def complain(message: str) -> None:
    """Print what went wrong, on stderr."""
    err.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table whose cells are never cut short; into a pipe or file, every row is one line."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        cells = [Text("" if cell is None else str(cell)) for cell in row]
        table.add_row(*cells)
    # a pipe has no width: no row may be wrapped
    console = out if out.is_terminal else Console(width=10_000)
    console.print(table)


def print_fields(document: Mapping[str, Any]) -> None:
    """Print the fields of a document, one on each line, nested ones as JSON."""
    width = 1 + max(13, *map(len, document))
    for name, value in document.items():
        if value is not None:
            text = json.dumps(value) if isinstance(value, dict | list) else value
            tell(f"{name:<{width}}{text}")


def show(document: Mapping[str, Any], as_json: bool) -> None:
    """Print a document for a machine or a person."""
    (print_json if as_json else print_fields)(document)


def parse_option(name: str, text: str | None, kind: type[dict[str, Any]] | type[list[Any]]) -> Any:
    """Return the value of an option that holds JSON; raises `typer.BadParameter` for anything but a
    `kind`.
    """
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{name} is not JSON: {error}") from None
    if not isinstance(value, kind):
        raise typer.BadParameter(f"{name} must be a JSON {'object' if kind is dict else 'list'}")
    return value
