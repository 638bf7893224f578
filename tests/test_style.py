"""The style that a linter does not know: words, phrases, names, density, docstrings, sizes."""

from __future__ import annotations

import ast
import gc
import re
from collections.abc import Iterator
from statistics import median

import pytest

from tests.support import style
from tests.support.style import Source

SOURCES = style.list_sources(*style.FOLDERS)
PACKAGES = style.list_sources(*style.PACKAGES)
LONGEST = 400
"""Lines of a file."""
OWN = {"tests/support/style.py", "tests/test_style.py"}
"""The files that list what is banned."""
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@pytest.fixture(autouse=True, scope="module")
def _no_garbage_collection() -> Iterator[None]:
    """Spare the collector the millions of nodes of the trees, which form no cycles."""
    gc.disable()
    yield
    gc.enable()


def test_no_name_holds_just_anything() -> None:
    places = [
        f"{source.name}:{line}: {name}"
        for source in SOURCES
        for line, name in sorted(source.list_bindings())
        if name in style.BANNED_NAMES
    ]
    assert not places


def test_no_phrase_that_is_not_english() -> None:
    phrases = "|".join(re.escape(phrase) for phrase in style.BANNED_PHRASES)
    pattern = re.compile(rf"\b({phrases})\b", re.IGNORECASE)
    places = [
        f"{source.name}:{source.text.count(chr(10), 0, match.start()) + 1}: {match[0]}"
        for source in SOURCES
        if source.name not in OWN
        for match in pattern.finditer(source.text)
    ]
    assert not places


def test_docstrings_begin_with_their_subject() -> None:
    places = [
        f"{source.name}:{line}: {text.splitlines()[0]}"
        for source in PACKAGES
        for line, text in source.iterate_docstrings()
        if text.split(maxsplit=1) and text.split(maxsplit=1)[0] in style.BANNED_BEGINNINGS
    ]
    assert not places


def iterate_public(source: Source) -> Iterator[Documented]:
    """The module, and its public classes, functions and methods."""
    yield source.tree
    for node in source.tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name.startswith("_"):
                continue
            yield node
            for member in node.body if isinstance(node, ast.ClassDef) else ():
                if (
                    isinstance(member, ast.FunctionDef)
                    and not member.name.startswith("_")
                    and not any(ast.unparse(mark) == "overload" for mark in member.decorator_list)
                ):
                    yield member


def test_everything_public_is_documented() -> None:
    missing = [
        f"{source.name}:{getattr(node, 'lineno', 1)}"
        for source in PACKAGES
        if source.text.strip()
        for node in iterate_public(source)
        if not ast.get_docstring(node)
    ]
    assert not missing


def test_functions_are_named_by_verbs() -> None:
    names = [
        function.name
        for source in style.list_sources("pruning")
        for function in style.list_functions(source)
    ]
    others = [name for name in names if name.split("_")[0] not in style.VERBS]
    assert 1 - len(others) / len(names) >= 0.6, sorted(others)


def test_lines_are_not_dense() -> None:
    densities = [source.measure_density() for source in PACKAGES]
    assert median(density for density in densities if density is not None) <= 5.5


def test_files_are_short() -> None:
    long = {source.name: len(source.text.splitlines()) for source in SOURCES}
    assert not {name: lines for name, lines in long.items() if lines > LONGEST}
