"""The dashboard keeps to its content security policy: nothing inline, nothing from elsewhere, no HTML from data."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|localStorage|\.style\b|https?:"
    )
    assert not re.findall(banned, text)
    for target in re.findall(r'from "([^"]+)"', text):
        assert (WEB / target.removeprefix("/assets/")).is_file()


def test_the_style_sheet_loads_nothing() -> None:
    assert not re.search(r"@import|url\(", (WEB / "style.css").read_text())
