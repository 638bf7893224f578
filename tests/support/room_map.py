"""The table of rooms in docs/architecture.md, made from the import contract and the docstrings.

`python -m tests.support.room_map` writes it (`make map`); `tests/test_documents.py` compares.
"""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "architecture.md"
PACKAGE = ROOT / "pruning"
BEGIN = "<!-- rooms: written by `make map` from the docstrings, and compared by a test -->\n"
END = "<!-- end of rooms -->"


def read_floors() -> list[list[str]]:
    """The floors of `pruning`, the highest first, as the import contract has them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [re.split(r" [|:] ", floor) for floor in layers]


def read_purpose(room: str) -> str:
    """The first sentence of the docstring of a room: a package's or a module's."""
    package = PACKAGE / room / "__init__.py"
    path = package if package.is_file() else PACKAGE / f"{room}.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=\.) ", paragraph)[0].removesuffix(".")


def write_table() -> str:
    """The table, a row for each room, the highest floor first."""
    floors = read_floors()
    rows = ["| floor | room | purpose |", "|---|---|---|"]
    for number, floor in zip(range(len(floors), 0, -1), floors, strict=True):
        for room in floor:
            name = f"{room}/" if (PACKAGE / room).is_dir() else f"{room}.py"
            rows.append(f"| {number} | `{name}` | {read_purpose(room)} |")
    return "\n".join(rows) + "\n"


def put_table(document: str) -> str:
    """The document with the table between its two marks."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{write_table()}{END}{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(put_table(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
