"""The registry: names, parameters, plugins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from pruning.criteria import criteria
from pruning.errors import ParameterError, UnknownNameError
from pruning.registry import Registry
from pruning.schedules import schedules

ROOT = Path(__file__).parents[2]
PLUGIN = '''
"""A plugin."""
from dataclasses import dataclass
from pruning.criteria import criteria


@criteria.register("{name}")
@dataclass(frozen=True)
class Smallest:
    """The smallest weights remain, less a shift."""
    shift: float = 0.5

    def score(self, evidence):
        return {{name: -weight.abs() - self.shift for name, weight in evidence.weights.items()}}
'''
USE = """
import json, sys, torch
from pruning.criteria import criteria
from pruning.library import score
net = torch.nn.Linear(2, 1, bias=False)
net.weight.data.copy_(torch.tensor([[1.0, -2.0]]))
entries = {name: {"entry": criteria.entry(name),
                  "score": score(net, name, [], shift=1.0)["weight"].tolist()}
           for name in sys.argv[1:]}
print(json.dumps({"names": criteria.names(), "added": entries}))
"""


def run(code: str, *arguments: str, **environment: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def make_registry() -> Registry[object]:
    fruits: Registry[object] = Registry("fruit", package=None)

    @fruits.register("apple")
    @dataclass(frozen=True)
    class Apple:
        """A round fruit."""

        weight_g: Annotated[int, Field(ge=1)] = 100
        colours: tuple[str, ...] = ("red",)

    @fruits.register("pear")
    @dataclass(frozen=True)
    class Pear:
        """A longer fruit.

        It has no parameters.
        """

    return fruits


def test_the_catalogue_reads_the_fields() -> None:
    fruits = make_registry()
    assert fruits.names() == ["apple", "pear"]
    assert [entry["summary"] for entry in fruits.catalogue()] == [
        "A round fruit.",
        "A longer fruit.",
    ]
    schema = fruits.entry("apple")["params"]
    assert schema["properties"]["weight_g"] | {"title": ""} == {
        "default": 100,
        "minimum": 1,
        "title": "",
        "type": "integer",
    }
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("params", "field", "message"),
    [
        ({"weight_g": 0}, "weight_g", "weight_g: Input should be greater than or equal to 1"),
        ({"weight_g": "heavy"}, "weight_g", "weight_g: Input should be a valid integer"),
        ({"colours": ["red", 3]}, "colours.1", r"colours\.1: Input should be a valid string"),
        ({"size": 1}, "size", "size: Unexpected keyword argument"),
    ],
)
def test_a_parameter_that_does_not_fit_is_named(
    params: dict[str, Any], field: str, message: str
) -> None:
    with pytest.raises(ParameterError, match=f"fruit 'apple': {message}") as caught:
        make_registry().create("apple", params)
    assert caught.value.pointer == field


def test_lists_from_json_become_tuples() -> None:
    assert make_registry().create("apple", {"colours": ["green"]}).colours == ("green",)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("aple", "did you mean 'apple'"),
        ("Pear", "did you mean 'pear'"),
        ("quince", "known: apple, pear"),
        ("", "known: apple, pear"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, hint: str) -> None:
    for call in (make_registry().get, make_registry().create, make_registry().entry):
        with pytest.raises(UnknownNameError, match=hint):
            call(name)


def test_what_is_no_frozen_dataclass_is_refused() -> None:
    fruits = make_registry()

    class Plain:
        """A class that is not a dataclass."""

    @dataclass
    class Mutable:
        """A dataclass that is not frozen."""

    for cls in (Plain, Mutable):
        with pytest.raises(TypeError, match="must be a frozen dataclass"):
            fruits.register("plum")(cls)
    assert "plum" not in fruits.names()


def test_a_method_without_a_docstring_is_refused() -> None:
    @dataclass(frozen=True)
    class Plum:
        pass

    Plum.__doc__ = None
    with pytest.raises(TypeError, match="needs a docstring"):
        make_registry().register("plum")(Plum)


@pytest.mark.parametrize("module", ["elsewhere", __name__])
def test_a_name_belongs_to_one_class(module: str) -> None:
    fruits = make_registry()

    @dataclass(frozen=True)
    class Other:
        """Also an apple."""

    Other.__module__ = module
    with pytest.raises(ValueError, match="'apple' is registered twice"):
        fruits.register("apple")(Other)
    assert fruits.get("apple").__name__ == "Apple"


def test_plugin_folders_and_an_entry_point_add_criteria(tmp_path: Path) -> None:
    for folder, name in (("first", "smallest"), ("second", "smallest_too")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own.py").write_text(PLUGIN.format(name=name))
    site = tmp_path / "site"
    info = site / "own_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "own_plugin.py").write_text(PLUGIN.format(name="smallest_installed"))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[secateur.plugins]\nown = own_plugin\n")
    added = ("smallest", "smallest_too", "smallest_installed")
    answer = run(
        USE,
        *added,
        PYTHONPATH=str(site),
        SECATEUR_PLUGIN_PATH=os.pathsep.join(
            [str(tmp_path / "first"), "", str(tmp_path / "second")]
        ),
    )
    assert answer["names"] == sorted({*criteria.names(), *added})
    for name in added:
        entry, score = answer["added"][name]["entry"], answer["added"][name]["score"]
        assert entry["summary"] == "The smallest weights remain, less a shift."
        assert entry["params"]["properties"]["shift"]["default"] == 0.5
        assert score == [[-2.0, -3.0]]


@pytest.mark.parametrize("fraction", [0, 1e-300, 1e-9, 1.0])
def test_a_schedule_cannot_take_endless_rounds(fraction: float) -> None:
    with pytest.raises(ParameterError, match="fraction"):
        schedules.create("geometric", {"fraction": fraction})
