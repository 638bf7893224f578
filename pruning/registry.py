"""Named methods: one file each, found without a list, parameters described by a JSON schema.

A registry holds frozen dataclasses by name. The fields of the class are the parameters of the
method, so that the catalogue, the validation of a request and the documentation all read the same
thing.

>>> from dataclasses import dataclass
>>> fruits: Registry[object] = Registry("fruit", package=None)
>>> @fruits.register("apple")
... @dataclass(frozen=True)
... class Apple:
...     "A round fruit."
...
...     weight_g: int = 100
>>> fruits.create("apple", {"weight_g": 80})
Apple(weight_g=80)
>>> fruits.create("aple", {})
Traceback (most recent call last):
...
pruning.errors.UnknownNameError: unknown fruit 'aple'; did you mean 'apple'?
>>> fruits.create("apple", {"colour": "red"})
Traceback (most recent call last):
...
pruning.errors.ParameterError: fruit 'apple': colour: Unexpected keyword argument
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError

from pruning.errors import ParameterError, UnknownNameError

T = TypeVar("T")
C = TypeVar("C", bound=type)

PLUGIN_ENTRY_POINTS = "secateur.plugins"
PLUGIN_PATH = "SECATEUR_PLUGIN_PATH"
"""Folders (separated like PATH) whose `.py` files are imported as plugins."""


class Registry(Generic[T]):
    """The methods of one kind, by name."""

    def __init__(self, kind: str, package: str | None) -> None:
        self.kind = kind
        self._package = package
        self._classes: dict[str, type[T]] = {}
        self._adapters: dict[str, TypeAdapter[Any]] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """Register a frozen dataclass under `name`; its fields are the parameters."""

        def decorate(cls: C) -> C:
            if not (dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen):  # type: ignore[attr-defined]
                raise TypeError(f"{self.kind} {name!r} must be a frozen dataclass")
            if not inspect.getdoc(cls):
                raise TypeError(
                    f"{self.kind} {name!r} needs a docstring: its first line is the "
                    "catalogue's summary"
                )
            known = self._classes.get(name, cls)
            # A module that is imported again registers an equal class once more.
            if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ValueError(f"{self.kind} {name!r} is registered twice: {known} and {cls}")
            cls.__pydantic_config__ = ConfigDict(extra="forbid", strict=False)  # type: ignore[attr-defined]
            self._classes[name] = cast("type[T]", cls)
            self._adapters[name] = TypeAdapter(cls)
            return cls

        return decorate

    def names(self) -> list[str]:
        """Return every registered name, sorted."""
        self._discover()
        return sorted(self._classes)

    def get(self, name: str) -> type[T]:
        """Return the class registered under `name`.

        Raises `UnknownNameError`, which names the nearest known name.
        """
        self._discover()
        if name not in self._classes:
            close = difflib.get_close_matches(name, self._classes, n=1, cutoff=0.5)
            if close:
                hint = f"did you mean {close[0]!r}?"
            else:
                hint = f"known: {', '.join(sorted(self._classes))}"
            raise UnknownNameError(f"unknown {self.kind} {name!r}; {hint}")
        return self._classes[name]

    def create(self, name: str, params: Mapping[str, Any] | None = None) -> T:
        """Create an instance with validated parameters.

        Raises `ParameterError`, which names the field that does not fit.
        """
        adapter = self._adapter(name)
        try:
            return adapter.validate_python(dict(params or {}))  # type: ignore[no-any-return]
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise ParameterError(
                f"{self.kind} {name!r}: {field}: {first['msg']}", pointer=field
            ) from None

    def entry(self, name: str) -> dict[str, Any]:
        """Return the catalogue entry: name, summary, JSON schema of the parameters."""
        schema = self._adapter(name).json_schema()
        schema.pop("title", None)
        schema.pop("description", None)
        return {"name": name, "summary": _summarise(self._classes[name]), "params": schema}

    def catalogue(self) -> list[dict[str, Any]]:
        """Return every entry, sorted by name."""
        return [self.entry(name) for name in self.names()]

    def _adapter(self, name: str) -> TypeAdapter[Any]:
        self.get(name)
        return self._adapters[name]

    def _discover(self) -> None:
        if self._package is not None:
            _import_package(self._package)
            import_plugins()


def _summarise(cls: type) -> str:
    """Return the first paragraph of the class's docstring, as one line."""
    docstring = inspect.getdoc(cls) or ""
    first_paragraph = docstring.strip().split("\n\n")[0]
    return " ".join(first_paragraph.split())


@cache
def _import_package(package: str) -> None:
    module = importlib.import_module(package)
    for info in pkgutil.iter_modules(module.__path__):
        importlib.import_module(f"{package}.{info.name}")


@cache
def import_plugins() -> None:
    """Import every plugin: the entry points of `secateur.plugins`, then the files of
    SECATEUR_PLUGIN_PATH.
    """
    for point in importlib.metadata.entry_points(group=PLUGIN_ENTRY_POINTS):
        point.load()
    for path in _list_plugin_files(os.environ.get(PLUGIN_PATH, "")):
        name = f"secateur_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)


def _list_plugin_files(folders: str) -> Iterable[Path]:
    for folder in filter(None, folders.split(os.pathsep)):
        yield from sorted(Path(folder).glob("*.py"))
