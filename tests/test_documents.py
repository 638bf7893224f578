"""Documents that must follow the code: the map of the rooms, the lock, the names of files."""

from __future__ import annotations

import json
import re
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from pruning.architectures import architectures
from pruning.networks.loading import build_outline, resolve
from pruning.schemas.family import FamilySpec
from pruning.schemas.presets import PRESETS
from tests.support import room_map

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
]


def test_the_map_of_the_rooms_is_what_make_map_writes() -> None:
    document = room_map.DOCUMENT.read_text(encoding="utf-8")
    assert document == room_map.put_table(document), "out of date; run: make map"


def test_the_root_of_pruning_holds_rooms_and_few_modules() -> None:
    modules = [path.name for path in room_map.PACKAGE.glob("*.py") if path.name != "__init__.py"]
    rooms = [path.parent.name for path in room_map.PACKAGE.glob("*/__init__.py")]
    assert len(modules) <= 8
    assert len(rooms) <= 26
    mapped = [room for floor in room_map.read_floors() for room in floor]
    assert sorted(mapped) == sorted([name.removesuffix(".py") for name in modules] + rooms)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_that_a_document_names_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    paths = re.findall(
        r"`((?:api|benchmarks|docs|examples|pruning|secateur|tasks|tests)/[\w/.-]*)`", text
    )
    invented = {"pruning/criteria/inverse.py"}  # the example of CONTRIBUTING
    missing = [path for path in paths if not (ROOT / path).exists() and path not in invented]
    assert not missing


def read_lock() -> dict[str, list[Version]]:
    """The locked releases of each package; there are several where they depend on the platform."""
    locked: dict[str, list[Version]] = {}
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        assert specifier.operator == "=="
        locked.setdefault(canonicalize_name(requirement.name), []).append(
            Version(specifier.version)
        )
    return locked


def test_the_lock_fits_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    locked = read_lock()
    for line in wanted:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        if name == "secateur":
            continue
        assert name in locked, f"{name} is not locked; run: make lock"
        for version in locked[name]:
            assert version in requirement.specifier, f"{name} {version}; run: make lock"


def test_the_papers_document_names_every_preset_and_its_runs() -> None:
    """The list of what is not as in the papers is for the presets that there are, and no others."""
    text = (ROOT / "docs/papers.md").read_text(encoding="utf-8")
    named: dict[str, int] = {}
    for names, runs in re.findall(r"^\| (`[a-z0-9_`, ]+`) \|[^|]+\| (\d) \|$", text, re.MULTILINE):
        named |= dict.fromkeys(re.findall(r"`(\w+)`", names), int(runs))
    assert named == {name: preset.runs for name, preset in PRESETS.items()}
    papers = {preset.paper for preset in PRESETS.values()}
    assert all(f"\n## {paper}" in text for paper in papers)
    assert text.count("Not as in the paper") == 4
    assert "docs/papers.md" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted((ROOT / "examples/families").glob("*.json")))
def test_the_families_of_the_papers_are_jobs(path: Path) -> None:
    """Every file is a family whose smallest and largest members can be built."""
    spec = FamilySpec.model_validate(
        json.loads(path.read_text(encoding="utf-8")) | {"dataset": {"id": "dst_00000000"}}
    )
    assert f"examples/families/{path.name}" in (ROOT / "docs/papers.md").read_text(encoding="utf-8")
    architecture: Any = architectures.get(spec.model.architecture)
    for pick in (min, max):
        size = architecture.member(pick(spec.members.depths), pick(spec.members.widths))
        build_outline(resolve(spec.model.architecture, spec.model.kwargs | size))
