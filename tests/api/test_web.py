"""The dashboard keeps to its content security policy.

It has nothing inline, nothing from elsewhere, and makes no HTML from data.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pruning.schemas.family import FamilySpec
from pruning.schemas.family_report import FamilyAnswer, FamilyReport

WEB = Path(__file__).parents[2] / "api" / "web"
SCRIPTS = sorted(WEB.glob("*.js"))


def test_the_page_loads_its_own_assets_only() -> None:
    page = (WEB / "index.html").read_text()
    loads = re.findall(r'(?:src|href)="([^"#]+)"', page)
    assert "/assets/app.js" in loads
    assert "/assets/style.css" in loads
    for target in loads:
        assert target == "data:," or (WEB / target.removeprefix("/assets/")).is_file()
    assert not re.search(r"<style|style=|\son[a-z]+=|<script(?![^>]*\bsrc=)", page)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_make_no_html_of_data(script: Path) -> None:
    text = script.read_text()
    banned = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|localStorage"
        r"|\.style\b|https?:"
    )
    assert not re.findall(banned, text)
    for target in re.findall(r'from "([^"]+)"', text):
        assert (WEB / target.removeprefix("/assets/")).is_file()


def test_the_style_sheet_loads_nothing() -> None:
    assert not re.search(r"@import|url\(", (WEB / "style.css").read_text())


def test_the_page_has_every_element_that_the_script_looks_up() -> None:
    page, script = (WEB / "index.html").read_text(), (WEB / "app.js").read_text()
    looked_up = set(re.findall(r'getElementById\("([^"]+)"\)', script))
    listed = re.search(r'\[("key"[^\]]*)\]\s*\.map\(\(id\) => document\.getElementById', script)
    assert listed is not None
    looked_up |= set(re.findall(r'"([^"]+)"', listed[1]))
    assert looked_up
    assert looked_up <= set(re.findall(r'\sid="([^"]+)"', page))


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ("sk_aB-9~!", True),
        ("", False),
        ("a b", False),
        ("ключ", False),
        ("sk_\n", False),
        ("é", False),
    ],
)
def test_a_key_that_no_header_takes_is_not_used(value: str, fits: bool) -> None:
    pattern = re.search(
        r"keyFits = \(value\) => /\^(\[.+?\]\+)\$/\.test\(value\)", (WEB / "api.js").read_text()
    )
    assert pattern is not None
    assert bool(re.fullmatch(pattern[1], value)) is fits


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_import_what_is_exported_and_use_it(script: Path) -> None:
    text = script.read_text()
    for names, target in re.findall(r'import \{([^}]*)\} from "/assets/([^"]+)"', text):
        for name in (name_text.strip() for name_text in names.split(",")):
            assert re.search(
                rf"export (?:const|class|(?:async )?function) {name}\b", (WEB / target).read_text()
            ), name
            assert len(re.findall(rf"\b{name}\b", text)) > 1, f"{name} is imported for nothing"


def test_the_list_leaves_members_to_their_family() -> None:
    assert 'parent: "none"' in (WEB / "jobs.js").read_text()
    assert "new URLSearchParams({ parent: id," in (WEB / "family.js").read_text()


def test_the_example_of_the_editor_is_a_family() -> None:
    example = re.search(r"const EXAMPLE = `(\{.*?\n\})`;", (WEB / "spec.js").read_text(), re.DOTALL)
    assert example is not None
    spec = FamilySpec.model_validate(json.loads(example[1]))
    assert (spec.rounds, len(spec.members.depths), spec.max_error) == (10, 3, (0.1,))


def test_the_answers_are_read_by_the_names_of_the_report() -> None:
    """The fields that the script reads exist in the answer and in the report."""
    text = (WEB / "family.js").read_text()
    table = text[text.index("function verdict") :]
    taken = set(re.findall(r"\b(?:a|answer)\.([a-z_]+)", table))
    assert (
        {"predicted", "measured", "within_band", "meets", "refused"}
        <= taken
        <= set(FamilyAnswer.model_fields)
    )
    assert set(re.findall(r"\breport\.([a-z_]+)", table)) <= set(FamilyReport.model_fields)
