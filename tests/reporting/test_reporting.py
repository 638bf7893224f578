"""Reports as HTML, Markdown and JUnit: complete, escaped, self-contained, the same bytes every time."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from pruning.reporting import RENDERERS, to_html, to_junit, to_markdown
from pruning.reporting import quantities as q
from pruning.reporting.markdown import COMMENT_LIMIT, escape
from pruning.reporting.plots import accuracy_plots, section_plots
from pruning.schemas.recipe import Method
from pruning.schemas.report import Curve, Estimate, GateResult, Report, Section
from tests.reporting import reports

EVERY = (reports.realistic, reports.hostile, reports.empty, reports.unretrained)
VOID = frozenset({"meta", "link", "img", "br", "hr", "input"})


class Page(HTMLParser):
    """Tags, text and attributes of a page, and whether its tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, name: str) -> list[str]:
        return [value or "" for _, attributes in self.tags for key, value in attributes.items() if key == name]


@pytest.mark.parametrize("render", RENDERERS.values(), ids=RENDERERS)
@pytest.mark.parametrize("make", EVERY)
def test_same_bytes_every_time(make: Callable[[], Report], render: Callable[[Report], str]) -> None:
    first = render(make())
    assert first == render(make())
    assert first == render(Report.model_validate_json(make().model_dump_json()))


@pytest.mark.parametrize("make", EVERY)
def test_html_loads_and_runs_nothing(make: Callable[[], Report]) -> None:
    page = Page(to_html(make()))
    assert page.open == []
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert not [attributes for _, attributes in page.tags if any(name.startswith("on") for name in attributes)]
    targets = page.all("href") + page.all("src") + page.all("xlink:href")
    assert [target for target in targets if not target.startswith("#")] == []
    assert {target[1:] for target in targets} <= set(page.all("id"))
    assert "@import" not in "".join(page.text)
    assert not re.search(r"url\((?!#)", "".join(page.text + page.all("style") + page.all("clip-path")))
    assert any("default-src 'none'" in content for content in page.all("content"))


@pytest.mark.parametrize("make", EVERY)
def test_html_is_accessible(make: Callable[[], Report]) -> None:
    page = Page(to_html(make()))
    identifiers = page.all("id")
    assert len(identifiers) == len(set(identifiers))
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in page.tags if tag == "th")
    assert all(attributes.get("aria-label") for _, attributes in page.tags if attributes.get("role") == "img")
    assert all(attributes.get("aria-hidden") == "true" for tag, attributes in page.tags if tag == "svg")
    assert [tag for tag, _ in page.tags].count("h1") == 1


def test_html_escapes_every_string() -> None:
    text = to_html(reports.hostile())
    assert "<script" not in text
    assert "<img" not in text
    assert text.count("&lt;script&gt;") > 20


def test_every_checkpoint_in_every_table() -> None:
    report = reports.realistic()
    page, comment = "".join(Page(to_html(report)).text), to_markdown(report)
    for checkpoint in report.checkpoints:
        assert checkpoint.id in page
        assert escape(checkpoint.id) in comment
        for text in (q.measured(checkpoint.error), q.points(checkpoint.error_increase.control)):
            assert text in page
            assert text in comment
        for size in checkpoint.size_bytes.values():
            assert q.size(size) in page
    for section in report.sections.values():
        assert section.title in page
        assert section.title in comment
    assert "ship 80 % sparsity" in page
    assert "left dense: normalisation" in page
    assert "dense kernels" in page


def test_plots_show_every_criterion_with_its_own_colour_and_marker() -> None:
    plots = accuracy_plots(reports.realistic())
    assert len(plots) == 2
    legend = plots[0].legend
    assert {"magnitude (p=1)", "snip"} <= {entry.label for entry in legend}
    glyphs = [(entry.colour, entry.kind) for entry in legend]
    assert len(set(glyphs)) == len(glyphs)
    assert all(f"var({entry.colour})" in plots[0].svg for entry in legend if entry.colour.startswith("--series"))
    assert "snip: 92.2 % at 49.99 %" in plots[0].description


def test_many_curves_are_split_over_plots_and_odd_ones_drawn() -> None:
    one = Curve(x=(1.0,), y=(Estimate(value=-2.0, low=-1.0, high=-3.0),), x_label="x", y_label="y")
    curves = {f"_{i} $": one for i in range(20)} | {"none": one.model_copy(update={"x": (), "y": ()})}
    plots = section_plots("s", Section(title="t", version=1, curves=curves))
    assert [len(plot.legend) for plot in plots] == [8, 8, 4]
    assert section_plots("s", Section(title="t", version=1)) == ()


def test_no_retraining_and_missing_numbers() -> None:
    page = "".join(Page(to_html(reports.unretrained())).text)
    assert "not retrained" in page
    assert "not measured" in page
    assert "File: onnx" in page
    assert "right after pruning, before retraining" not in page
    assert "not retrained" in to_markdown(reports.unretrained())


def test_partial_is_marked() -> None:
    assert "<strong>Partial.</strong>" in to_html(reports.empty())
    assert "**Partial.**" in to_markdown(reports.empty())
    assert "Partial" not in to_html(reports.realistic()) + to_markdown(reports.realistic())
    one = reports.realistic(
        partial=True, checkpoints=(reports.checkpoint(Method(name="snip"), 0.5, 0.1, 0.2, partial=True),)
    )
    assert '<span class="tag warn">partial</span>' in to_html(one)


def test_failed_gate_is_the_headline() -> None:
    gate = GateResult(
        name="max_error_increase",
        limit=0.001,
        checkpoint="magnitude-0.8",
        measured=reports.difference(0.003),
        passed=False,
        message="0.3 points above, 0.1 allowed",
    )
    report = reports.realistic(gates=(gate,))
    assert "but a gate failed" in to_html(report)
    assert "❌ failed" in to_markdown(report)


@pytest.mark.parametrize("make", EVERY)
def test_markdown_tables_are_well_formed(make: Callable[[], Report]) -> None:
    text = re.sub(r"(?ms)^(`{3,})json$.*?^\1$", "", to_markdown(make()))
    blocks = re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE)
    assert len(blocks) >= 3
    for block in blocks:
        widths = [len(re.findall(r"(?<!\\)\|", line)) for line in block.strip().split("\n")]
        assert len(set(widths)) == 1, block
        assert re.fullmatch(r"\|(?: -{3}:? \|)+", block.split("\n")[1])
    assert not re.search(r"<(?!/?(?:details|summary|sub|br)>)", text)
    assert not re.search(r"(?<![&#0-9;])@", text)


def test_markdown_fits_a_comment() -> None:
    section = reports.realistic().sections["robustness"]
    long = section.model_copy(update={"details": {"rows": list(range(40_000))}})
    text = to_markdown(reports.realistic(sections={"robustness": long}))
    assert len(text) <= COMMENT_LIMIT
    assert "left out here for length" in text


@pytest.mark.parametrize(
    ("make", "tests", "failures", "errors"),
    [(reports.realistic, 3, 0, 1), (reports.hostile, 3, 1, 1), (reports.empty, 1, 0, 1),
     (lambda: reports.realistic(gates=(), failures=()), 1, 0, 0)],
)
def test_junit_counts(make: Callable[[], Report], tests: int, failures: int, errors: int) -> None:
    suite = ET.fromstring(to_junit(make()))
    assert suite.tag == "testsuite"
    counts = {"tests": tests, "failures": failures, "errors": errors, "skipped": 0}
    assert {key: int(suite.attrib[key]) for key in counts} == counts
    assert len(suite.findall("testcase")) == tests
    assert len(suite.findall("testcase/failure")) == failures
    assert len(suite.findall("testcase/error")) == errors
    assert all(element.attrib["message"] for element in [*suite.iter("failure"), *suite.iter("error")])


def test_importing_the_package_loads_no_renderer() -> None:
    code = "import sys, pruning.reporting; print(sorted({'matplotlib', 'jinja2', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_rendering_needs_neither_pyplot_nor_torch() -> None:
    code = (
        "import sys; from pruning.reporting import html, junit, markdown\n"
        "print(sorted({'matplotlib.pyplot', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: q.points(Estimate(value=-0.0001)), "0.0 pp"),
        (lambda: q.percent(-0.012), "−1.2 %"),
        (lambda: q.share(0.0), "0 %"),
        (lambda: q.size(999_600), "1.00 MB"),
        (lambda: q.factor(1e4), "10000×"),
        (lambda: q.duration(59.9), "59.9 s"),
        (lambda: q.named("x_ms", Estimate(value=1.5, low=1.0, high=2.0)), "1.50 ms [1.00 ms, 2.00 ms]"),
        (lambda: q.named("error_ratio", Estimate(value=0.5)), "0.5"),
        (lambda: q.named("prune_potential", Estimate(value=0.853)), "85.3 %"),
    ],
)
def test_quantities(call: Callable[[], Any], text: str) -> None:
    assert call() == text
