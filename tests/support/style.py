"""What the style tests measure: names, phrases, docstrings, density."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("pruning", "tasks", "api", "secateur")
FOLDERS = (*PACKAGES, "tests", "benchmarks", "examples")

BANNED_NAMES = frozenset({"one", "found", "mine", "told", "said"})
"""Names that hold anything: what a variable holds has a name of its own."""

BANNED_PHRASES = (
    "are no finite numbers",
    "is no finite number",
    "no numbers",
    "cannot be had",
    "can be had",
    "is to be had",
    "are to be had",
    "is let be",
    "are let be",
    "so-manieth",
    "one class an image",
    "one answer an image",
    "two at least",
    "one at least",
    "told apart",
    "by which fraction of it",
)
"""Idioms that are not English, and figures of speech."""

BANNED_BEGINNINGS = ("As", "By", "How", "Of", "That", "Those", "What")
"""First words of docstrings whose subject stands somewhere else."""

VERBS = frozenset(
    """
    accept add adjust admit allocate allow answer append apply arrange ask assemble assign
    attach average balance be begin bind bound build calibrate call cancel carry catch change
    check choose claim clean clear close collect combine compact compare compensate complete
    compress compute confirm connect continue convert copy correct correlate corrupt count
    couple cover create cut decide decode decorate decrease deliver derive describe detect
    determine die discover display divide do draw drop dump emit empty enable encode end enqueue
    ensure enter equalise escape estimate evaluate exclude execute exit expand expect expire
    explain export express extend extract factor fail fetch fill filter find finish fit flatten
    flush fold follow forecast forget format free from fuse gather generate get give group guess
    hand handle has hash hide hold identify ignore import include increment index inherit
    initialise insert inspect interpolate interrupt invert is iterate join judge keep kill label
    launch learn leave let limit link list load lock log look make map mark mask match mean
    measure merge minimise move multiply name need normalise note notify number observe offer
    open optimise order override own pack pad paint parse pass pause perform pick ping place
    plan plot point poll pop predict prefer prepare present preserve print propagate prove prune
    publish push put query queue quote raise rank read rebuild receive recommend record recover
    reduce reestimate refer refit refuse register rehearse reject relax relay release reload
    remember remove rename render renew replace reply report request require resample rescale
    reserve reset resize resolve restore resume retrain retry return reuse reverse reweight
    rewind ring roll round route run sample save say scale schedule score search seed select
    send serve set settle shape share shift show shrink shuffle sign simplify simulate skip
    smooth solve sort space sparsify spend split spread stack start state stop store stream
    stretch strip submit subtract sum summarise supervise support survive swap sweep switch take
    tell test tidy to touch trace train transform translate trim try tune turn unflatten unpack
    unregister update upload use validate verify visit wait wake walk warn watch weigh widen
    wrap write yield
    """.split()  # noqa: SIM905
)
"""First words of functions that say what they do (`is_`, `has_`, `to_` and `from_` too)."""


@dataclass(frozen=True)
class Source:
    """A Python file, parsed when its tree is first asked for."""

    path: Path

    @cached_property
    def text(self) -> str:
        """The text of the file."""
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.text)

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """Every node of the tree, in the order of `ast.walk`."""
        return tuple(ast.walk(self.tree))

    @property
    def name(self) -> str:
        """The path from the root of the repository."""
        return str(self.path.relative_to(ROOT))

    def iterate_docstrings(self) -> Iterator[tuple[int, str]]:
        """Line and text of every docstring, those of attributes too."""
        for node in self.nodes:
            if _is_docstring(node):
                yield node.lineno, node.value.value  # type: ignore[attr-defined]

    def list_bindings(self) -> set[tuple[int, str]]:
        """Line and name of everything that is bound: variables, parameters, fields."""
        bound = set()
        for node in self.nodes:
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                bound.add((node.lineno, node.id))
            elif isinstance(node, ast.arg):
                bound.add((node.lineno, node.arg))
        return bound

    def measure_density(self) -> float | None:
        """Statements and expressions for each line of code; None for a file without code."""
        prose: set[int] = set()
        for node in self.nodes:
            if _is_docstring(node):
                prose.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))  # type: ignore[attr-defined]
        lines = [
            number
            for number, line in enumerate(self.text.splitlines(), 1)
            if line.strip() and not line.lstrip().startswith("#") and number not in prose
        ]
        nodes = sum(
            isinstance(node, ast.expr | ast.stmt) and not _is_docstring(node) for node in self.nodes
        )
        return nodes / len(lines) if lines else None


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def list_sources(*folders: str) -> list[Source]:
    """Every Python file below the folders."""
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [read_source(path) for path in paths]


@cache
def read_source(path: Path) -> Source:
    """The file of a path; it is parsed once, however many tests ask for it."""
    return Source(path)


def list_functions(source: Source) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The public functions of a module."""
    return [
        node
        for node in source.tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and not node.name.startswith("_")
    ]
