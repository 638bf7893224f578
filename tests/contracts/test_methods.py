"""What every registered method must keep, whoever wrote it: it is documented and in the catalogue.

A new method is tested by being registered.
"""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import pruning
from pruning.data.builtin import datasets
from pruning.errors import ParameterError
from pruning.evaluations import evaluations
from pruning.registry import Registry
from tests.support.registries import EVERY, REGISTRIES, REQUIRED


def test_every_registered_method_is_in_the_readme() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for kind, registry in REGISTRIES.items():
        missing = [
            name for name in registry.names() if f"`{name}`" not in readme and kind != "datasets"
        ]
        assert not missing, f"{kind} not in the README: {missing}"


def test_no_registry_escapes_this_suite() -> None:
    registries: set[int] = set()
    for info in pkgutil.walk_packages(pruning.__path__, "pruning."):
        module = importlib.import_module(info.name)
        registries |= {id(value) for value in vars(module).values() if isinstance(value, Registry)}
    assert registries == {id(registry) for registry in REGISTRIES.values()}


@pytest.mark.parametrize(("registry", "name"), EVERY)
def test_is_documented_and_shown_by_a_doctest(registry: Registry[Any], name: str) -> None:
    cls = registry.get(name)
    module = sys.modules[cls.__module__]
    assert module.__doc__
    assert cls.__doc__
    if (
        registry is not datasets and registry is not evaluations
    ):  # these need files or a finished job to show anything
        assert any(test.examples for test in doctest.DocTestFinder().find(module)), (
            f"{cls} has no doctest"
        )


@pytest.mark.parametrize(("registry", "name"), EVERY)
def test_catalogue_entry_describes_the_parameters(registry: Registry[Any], name: str) -> None:
    entry = registry.entry(name)
    assert entry["name"] == name
    assert 10 <= len(entry["summary"]) <= 200
    schema = entry["params"]
    jsonschema.Draft202012Validator.check_schema(schema)
    least = REQUIRED.get(name, {})
    assert set(schema.get("required", ())) == set(least)
    jsonschema.validate(least, schema)
    defaults = {
        key: value["default"]
        for key, value in schema.get("properties", {}).items()
        if key not in least
    }
    jsonschema.validate(defaults | least, schema)
    assert registry.create(name, defaults | least) == registry.create(name, least)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(least | {"no_such_parameter": 1}, schema)
    with pytest.raises(ParameterError, match="no_such_parameter"):
        registry.create(name, least | {"no_such_parameter": 1})
