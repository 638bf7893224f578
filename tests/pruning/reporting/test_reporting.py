"""Reports as HTML, Markdown and JUnit: complete, escaped, self-contained, the same bytes every
time.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from pruning import wording
from pruning.reporting import RENDERERS, summary, to_html, to_junit, to_markdown
from pruning.reporting.accuracy_plot import plot_accuracy
from pruning.reporting.comment import COMMENT_LIMIT, escape
from pruning.reporting.plots import plot_section
from pruning.reporting.series_styles import SERIES, choose_style
from pruning.schemas.recipe import Method
from pruning.schemas.report import (
    BatchNorm,
    Curve,
    Estimate,
    Report,
    Section,
)
from tests.support import reports
from tests.support.drawn_plots import draw_anew
from tests.support.page import Page

EVERY = (reports.realistic, reports.hostile, reports.empty, reports.unretrained)


@pytest.mark.parametrize("render", RENDERERS.values(), ids=RENDERERS)
@pytest.mark.parametrize("make", EVERY)
def test_same_bytes_every_time(make: Callable[[], Report], render: Callable[[Report], str]) -> None:
    first = render(make())
    with draw_anew():
        assert first == render(Report.model_validate_json(make().model_dump_json()))


@pytest.mark.parametrize("make", EVERY)
def test_html_loads_and_runs_nothing(make: Callable[[], Report]) -> None:
    page = Page(to_html(make()))
    assert page.open == []
    assert not {tag for tag, _ in page.tags} & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
    }
    assert not [
        attributes
        for _, attributes in page.tags
        if any(name.startswith("on") for name in attributes)
    ]
    targets = page.all("href") + page.all("src") + page.all("xlink:href")
    assert [target for target in targets if not target.startswith("#")] == []
    assert {target[1:] for target in targets} <= set(page.all("id"))
    assert "@import" not in "".join(page.text)
    assert not re.search(
        r"url\((?!#)", "".join(page.text + page.all("style") + page.all("clip-path"))
    )
    assert any("default-src 'none'" in content for content in page.all("content"))


@pytest.mark.parametrize("make", EVERY)
def test_html_is_accessible(make: Callable[[], Report]) -> None:
    page = Page(to_html(make()))
    identifiers = page.all("id")
    assert len(identifiers) == len(set(identifiers))
    assert all(
        attributes.get("scope") in ("row", "col") for tag, attributes in page.tags if tag == "th"
    )
    assert all(
        attributes.get("aria-label")
        for _, attributes in page.tags
        if attributes.get("role") == "img"
    )
    assert all(
        attributes.get("aria-hidden") == "true" for tag, attributes in page.tags if tag == "svg"
    )
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
        for text in (
            wording.percent_with_interval(checkpoint.error),
            wording.points_with_interval(checkpoint.error_increase.control),
        ):
            assert text in page
            assert text in comment
        for size in checkpoint.size_bytes.values():
            assert wording.file_size(size) in page
    for section in report.sections.values():
        assert section.title in page
        assert section.title in comment
    assert "ship 80 % sparsity" in page
    assert "left dense: normalisation" in page
    assert "dense kernels" in page


def test_plots_show_every_criterion_with_its_own_colour_and_marker() -> None:
    after, before = plot_accuracy(reports.realistic())
    assert (after.title, before.title) == (
        "Accuracy after retraining",
        "Accuracy right after pruning, before retraining",
    )
    assert {"magnitude", "snip"} <= {entry.label for entry in after.legend}
    assert "snip: 92.2 % at 49.99 %" in after.description
    assert "snip: 85.0 % at 49.99 %" in before.description


def test_thirteen_criteria_stay_apart_on_one_pair_of_axes() -> None:
    """No two share colour, marker and line, and none is left out."""
    methods = [Method(name="qm", params={"pi": i}) for i in range(13)]
    checkpoints = tuple(
        reports.checkpoint(method, sparsity, 0.1, 0.2, id=f"qm-pi{i}-{sparsity!r}")
        for i, method in enumerate(methods)
        for sparsity in (0.5, 0.9)
    )
    report = reports.realistic(checkpoints=checkpoints, rounds=())
    for plot in plot_accuracy(report):
        assert [entry.label for entry in plot.legend[2:]] == [f"qm-pi{i}" for i in range(13)]
        glyphs = [(entry.colour, entry.kind, entry.line, entry.hollow) for entry in plot.legend]
        assert len(set(glyphs)) == len(glyphs)
        assert all(f"var({entry.colour})" in plot.svg for entry in plot.legend)
    looks = [choose_style(i) for i in range(SERIES)]
    assert len(set(looks)) == SERIES == 32
    assert len({(look.colour, look.marker) for look in looks[:16]}) == 16
    page = to_html(report)
    assert page.count('class="hollow"') == 2 * 5
    assert "qm (pi=12)" in page, "the parameters are told where the label leaves them out"


def test_labels_are_those_of_the_checkpoints() -> None:
    report = reports.realistic()
    assert summary.list_labels(report) == ["magnitude", "snip"]
    checkpoint = reports.checkpoint(
        Method(name="qm", params={"pi": 14}), 0.95, 0.1, 0.2, id="qm-pi14-0.95"
    )
    between = report.rounds[0].model_copy(update={"criterion": checkpoint.criterion})
    known = reports.realistic(checkpoints=(checkpoint,), rounds=(between,))
    assert summary.list_labels(known) == ["qm-pi14"]
    assert summary.list_labels(reports.realistic(checkpoints=(), rounds=(between,))) == [
        "qm (pi=14)"
    ], "no checkpoint names it yet"


def test_batchnorm_that_was_reestimated_is_told_with_its_losses() -> None:
    report = reports.realistic()
    first = report.checkpoints[0].model_copy(
        update={"batchnorm": BatchNorm(loss_before=2.31, loss_after=0.523, kept=True)}
    )
    last = report.checkpoints[1].model_copy(
        update={"batchnorm": BatchNorm(loss_before=0.5, loss_after=0.612, kept=False)}
    )
    report_with_batchnorm = reports.realistic(checkpoints=(first, last, *report.checkpoints[2:]))
    for text in (
        "".join(Page(to_html(report_with_batchnorm)).text),
        to_markdown(report_with_batchnorm).replace("\\", ""),
    ):
        assert "BatchNorm re-estimated" in text
        assert "kept [loss 2.31 → 0.523]" in text
        assert "undone [loss 0.500 → 0.612]" in text
    for text in (to_html(report), to_markdown(report)):
        assert "BatchNorm" not in text


def test_accuracy_is_not_drawn_twice() -> None:
    curve = Curve(
        x=(0.5, 0.8),
        y=(Estimate(value=0.1), Estimate(value=0.2)),
        x_label="sparsity",
        y_label="test error",
    )
    curves = {
        "error/a": curve,
        "error_before_retraining/a": curve,
        "increase/a": curve.model_copy(update={"y_label": "more"}),
    }
    section = Section(title="Accuracy", version=1, curves=curves)
    assert len(plot_section("s", section)) == 2
    page = to_html(reports.realistic(sections={"accuracy": section}))
    assert page.count("<figure>") == 2 + 1
    (plot,) = plot_section("s", section, ("error",))
    assert [entry.label for entry in plot.legend] == ["a"], "what all share is left to the axis"


def test_names_are_shown_in_the_words_of_their_section() -> None:
    curve = Curve(
        x=(0.5, 0.8), y=(Estimate(value=0.1), Estimate(value=0.2)), x_label="sparsity", y_label="KL"
    )
    section = Section(
        title="Distances",
        version=1,
        scalars={"spearman_before/kl": Estimate(value=-1.0, low=-1.0, high=-1.0)},
        curves={
            **{f"kl_{phase}/filter_norm": curve for phase in ("before", "after")},
            "far_off/filter_norm": curve.model_copy(update={"y_label": "else"}),
        },
        details={"rows": [{"missed_sigma": 0.1}]},
        labels={
            "spearman_before": "Spearman's rho right after pruning",
            "kl": "KL divergence",
            "kl_before": "before retraining",
            "kl_after": "after retraining",
            "far_off": "by the distance",
            "missed_sigma": "sigma",
        },
    )
    first, second = plot_section("s", section)
    assert [entry.label for entry in first.legend] == [
        "before retraining, filter_norm",
        "after retraining, filter_norm",
    ]
    assert second.title == "Distances: by the distance"
    report = reports.realistic(sections={"distances": section})
    for text in ("".join(Page(to_html(report)).text), to_markdown(report).replace("\\", "")):
        assert "Spearman's rho right after pruning: KL divergence" in text
        assert "before retraining, filter_norm" in text
        assert "sigma" in text
        for raw in ("spearman_before", "kl_before", "far_off", "missed"):
            assert raw not in text
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_many_curves_are_split_over_plots_and_odd_ones_drawn() -> None:
    curve = Curve(
        x=(1.0,), y=(Estimate(value=-2.0, low=-1.0, high=-3.0),), x_label="x", y_label="y"
    )
    curves = {f"_{i} $": curve for i in range(20)} | {
        "none": curve.model_copy(update={"x": (), "y": ()})
    }
    plots = plot_section("s", Section(title="t", version=1, curves=curves))
    assert [len(plot.legend) for plot in plots] == [16, 4]
    assert plot_section("s", Section(title="t", version=1)) == ()


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
    partial = reports.realistic(
        partial=True,
        checkpoints=(reports.checkpoint(Method(name="snip"), 0.5, 0.1, 0.2, partial=True),),
    )
    assert '<span class="tag warn">partial</span>' in to_html(partial)


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
    [
        (reports.realistic, 3, 0, 1),
        (reports.hostile, 3, 1, 1),
        (reports.empty, 1, 0, 1),
        (lambda: reports.realistic(gates=(), failures=()), 1, 0, 0),
    ],
)
def test_junit_counts(make: Callable[[], Report], tests: int, failures: int, errors: int) -> None:
    suite = ET.fromstring(to_junit(make()))
    assert suite.tag == "testsuite"
    counts = {"tests": tests, "failures": failures, "errors": errors, "skipped": 0}
    assert {key: int(suite.attrib[key]) for key in counts} == counts
    assert len(suite.findall("testcase")) == tests
    assert len(suite.findall("testcase/failure")) == failures
    assert len(suite.findall("testcase/error")) == errors
    assert all(
        element.attrib["message"] for element in [*suite.iter("failure"), *suite.iter("error")]
    )


@pytest.mark.slow
def test_the_package_loads_no_renderer_and_rendering_neither_pyplot_nor_torch() -> None:
    code = (
        "import sys, pruning.reporting\n"
        "print(sorted({'matplotlib', 'jinja2', 'torch'} & set(sys.modules)))\n"
        "from pruning.reporting import html, junit, markdown\n"
        "print(sorted({'matplotlib.pyplot', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "[]"]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: wording.points_with_interval(Estimate(value=-0.0001)), "0.0 pp"),
        (lambda: wording.percent(-0.012), "−1.2 %"),
        (lambda: wording.short_percent(0.0), "0 %"),
        (lambda: wording.file_size(999_600), "1.00 MB"),
        (lambda: wording.factor(1e4), "10000×"),
        (lambda: wording.duration(59.9), "59.9 s"),
        (
            lambda: wording.quantity(Estimate(value=1.5, low=1.0, high=2.0, unit="milliseconds")),
            "1.50 ms [1.00 ms, 2.00 ms]",
        ),
        (lambda: wording.quantity(Estimate(value=0.5)), "0.5"),
        (
            lambda: wording.quantity(
                Estimate(value=0.0, low=-0.02, high=0.02), unit="nats_difference"
            ),
            "0.000 [−0.020, +0.020]",
        ),
        (
            lambda: wording.quantity(Estimate(value=123456.0, low=1e5, high=2e5, unit="nats")),
            "1.23 × 10⁵ [1.00 × 10⁵, 2.00 × 10⁵]",
        ),
        (
            lambda: wording.quantity(Estimate(value=-0.1461, low=-1, high=0.5, unit="correlation")),
            "−0.15 [−1.00, 0.50]",
        ),
        (
            lambda: wording.quantity(Estimate(value=-0.00898), unit="factor"),
            "−0.009×",
        ),
        (lambda: wording.quantity(Estimate(value=0.853, unit="fraction")), "85.3 %"),
    ],
)
def test_quantities(call: Callable[[], Any], text: str) -> None:
    assert call() == text
