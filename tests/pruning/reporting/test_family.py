"""Families as HTML, Markdown and JUnit: answers predicted beside measured, members, law; escaped,
the same every time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from xml.etree import ElementTree as ET

import pytest

from pruning.family.confirmation import judge_answers
from pruning.reporting import RENDERERS, family, to_html, to_junit, to_markdown
from pruning.reporting.axes import Plot
from pruning.reporting.comment import COMMENT_LIMIT
from pruning.reporting.plots import plot_section
from pruning.schemas.family_report import FamilyAnswer, FamilyReport
from pruning.schemas.report import Curve, Estimate, Failure, Section
from tests.support import family_world as world
from tests.support.drawn_plots import draw_anew
from tests.support.page import Page
from tests.support.reports import HOSTILE

SMALL = {"members": {"depths": [1, 2, 3], "widths": [8, 16, 32]}}


@cache
def whole() -> FamilyReport:
    return world.reported(world.spec(**SMALL, max_error=[0.12, 0.2]))


@cache
def partial() -> FamilyReport:
    """One member failed, one runs, and the answers are not trained yet."""
    ends = {
        "depth3.0-width32.0-fraction1.0-seed0": "failed",
        "depth1.0-width8.0-fraction1.0-seed0": "running",
    }
    return world.reported(
        world.spec(**SMALL), turns=1, ends=lambda member: ends.get(member.key, "succeeded")
    )


@cache
def young() -> FamilyReport:
    """Nothing has measured anything."""
    return world.reported(world.spec(**SMALL), turns=0)


@cache
def hostile() -> FamilyReport:
    """Every free string is an attack."""
    base = whole()
    answer = base.answers[0].model_copy(
        update={"notes": (HOSTILE,), "job": HOSTILE, "checkpoint": HOSTILE}
    )
    refused = FamilyAnswer(max_error=0.01, refused=HOSTILE)
    curve = Curve(
        x=(1, 2), y=(Estimate(value=1), Estimate(value=2)), x_label=HOSTILE, y_label="$\\frac{"
    )
    section = Section(
        title=HOSTILE,
        version=1,
        notes=(HOSTILE,),
        curves={HOSTILE: curve},
        scalars={HOSTILE: Estimate(value=0.1)},
        details={HOSTILE: [{HOSTILE: HOSTILE}], "plain": HOSTILE},
    )
    return base.model_copy(
        update={
            "job_id": HOSTILE,
            "architecture": HOSTILE,
            "data": HOSTILE,
            "spec": {"labels": {HOSTILE: HOSTILE}},
            "secateur": HOSTILE,
            "sections": base.sections | {HOSTILE: section},
            "warnings": (HOSTILE,),
            "members": (
                base.members[0].model_copy(
                    update={"job": HOSTILE, "remark": HOSTILE, "status": "failed"}
                ),
            ),
            "answers": (answer, refused),
            "failures": (Failure(name=HOSTILE, code=HOSTILE, message=HOSTILE + "\x1b"),),
            "recommendation": base.recommendation.model_copy(
                update={"job": HOSTILE, "checkpoint": HOSTILE, "reason": HOSTILE}
            ),
        }
    )


EVERY = (whole, partial, young, hostile)


def measured(report: FamilyReport, value: float, half: float = 0.01) -> FamilyReport:
    """The report with another measured error of its first answer, which was chosen on validation
    images, and no other answer.
    """
    estimate = Estimate(value=value, low=value - half, high=value + half, n=2000)
    answer = report.answers[0].model_copy(
        update={
            "measured": estimate,
            "meets": value <= report.answers[0].max_error,
            "chosen_on": "val",
        }
    )
    return report.model_copy(update={"answers": judge_answers([answer])})


@pytest.mark.parametrize("render", RENDERERS.values(), ids=RENDERERS)
@pytest.mark.parametrize("make", EVERY)
def test_same_bytes_every_time(
    make: Callable[[], FamilyReport], render: Callable[[FamilyReport], str]
) -> None:
    """The plots too: those of `hostile` are those of `whole` and more."""
    first = render(make())
    with draw_anew() if make is hostile else nullcontext():
        assert first == render(FamilyReport.model_validate_json(make().model_dump_json()))


@pytest.mark.parametrize("make", EVERY)
def test_html_loads_and_runs_nothing_and_is_accessible(make: Callable[[], FamilyReport]) -> None:
    text = to_html(make())
    page = Page(text)
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
    targets = page.all("href") + page.all("src") + page.all("xlink:href")
    assert [target for target in targets if not target.startswith("#")] == []
    assert {target[1:] for target in targets} <= set(page.all("id"))
    assert any("default-src 'none'" in content for content in page.all("content"))
    identifiers = page.all("id")
    assert len(identifiers) == len(set(identifiers))
    assert all(
        attributes.get("scope") in ("row", "col") for tag, attributes in page.tags if tag == "th"
    )
    assert [tag for tag, _ in page.tags].count("h1") == 1
    assert "<script" not in text
    assert "<img" not in text


def test_answers_are_told_predicted_beside_measured() -> None:
    report = whole()
    page, comment = "".join(Page(to_html(report)).text), to_markdown(report).replace("\\", "")
    rows = family.list_answers(report)
    assert [row.answer.max_error for row in rows] == [0.12, 0.2]
    assert sum(row.recommended for row in rows) == 1
    for row in rows:
        assert row.outcome in ("kept", "not proven", "exceeded")
        for text in (
            row.predicted,
            row.measured,
            row.network,
            row.kept,
            row.verdict,
            row.answer.job,
        ):
            assert text
            assert text in page
            assert text in comment
    for member in report.members:
        assert member.job
        assert member.job in page
        assert member.job in comment
        assert family.describe_sparsest(member) in page
    for section in report.sections.values():
        assert section.title in page
        assert section.title in comment


def test_the_verdict_follows_what_was_measured() -> None:
    report = whole()
    best = next(answer for answer in report.answers if answer.job == report.recommendation.job)
    report = report.model_copy(update={"answers": (best,)})
    error, kept = (
        f"{100 * best.max_error:g} %",
        f"{best.measured_parameters} of {best.unpruned_parameters} parameters",
    )
    good = family.describe_verdict(measured(report, best.max_error - 0.02))
    assert (good.headline, good.tone) == (
        f"mlp family on digits: error ≤ {error} with {kept}",
        "good",
    )
    about = family.describe_verdict(measured(report, best.max_error - 0.005))
    below = f"{100 * best.max_error - 0.5:.2f} %"
    assert (about.headline, about.tone) == (
        f"mlp family on digits: error of {below} measured with {kept}, {error} tolerated, "
        "not proven",
        "open",
    )
    none = report.recommendation.model_copy(update={"job": None, "checkpoint": None})
    bad = family.describe_verdict(measured(report, 0.5).model_copy(update={"recommendation": none}))
    assert (bad.tone, "no network that was trained keeps" in bad.headline) == ("bad", True)
    assert {fact.label: fact.value for fact in good.facts}["Members measured"] == "9 of 9"
    facts = {fact.label: fact for fact in good.facts}
    assert {
        "Law misses by",
        "Other half missed by",
        "Error predicted",
        "Error measured",
        "Parameters kept",
    } <= set(facts)
    assert facts["Error predicted"].detail.startswith("band [")
    assert "the band" in facts["Error measured"].detail


def test_bands_and_deviations_say_what_they_are() -> None:
    report = whole()
    facts = {fact.label: fact for fact in family.describe_verdict(report).facts}
    assert facts["Error predicted"].detail.endswith("] at 90 %")
    comment, page = to_markdown(report), to_html(report)
    for text in (comment, page):
        assert "Predicted error [90 % band]" in text.replace("\\", "")
        assert "Error at the least density" in text
    law = report.sections["scaling_law"]
    assert re.search(
        r"the law deviates from them by a standard deviation of [\d.]+ % of the error, by "
        r"[+−]?[\d.]+ % on average",
        law.notes[0],
    )
    assert (
        "Bands (90 %) are of one more run under another seed; a seed moves a whole" in law.notes[1]
    )
    assert "(the paper's, as the trials here are too few to show it)" in law.notes[1]
    assert "| Quantity | Value | Samples |" in comment, "no value of the law has an interval"
    (apart,) = [note for note in report.sections["invariant"].notes if note.startswith("With phi")]
    assert "scatter about one law by a relative standard deviation of" in apart
    assert "with two constants fewer" in apart


def test_families_without_an_answer_say_why() -> None:
    only = world.reported(world.spec(**SMALL, confirm=False))
    verdict = family.describe_verdict(only)
    assert verdict.tone == "open"
    assert re.search(
        r"error ≤ 12 % predicted with \d+ of [\d,]+ parameters, not trained for real",
        verdict.headline,
    )
    assert "not trained for real" in to_markdown(only)
    never = family.describe_verdict(world.reported(world.spec(**SMALL, max_error=[0.001])))
    assert (never.tone, never.headline) == (
        "bad",
        "mlp family on digits: no network for the tolerated error",
    )
    lawless = family.describe_verdict(
        world.reported(world.spec(**SMALL), ends=lambda member: "failed")
    )
    assert (lawless.tone, lawless.headline) == ("bad", "mlp family on digits: no joint law")
    start = family.describe_verdict(young())
    assert (start.tone, start.headline) == ("open", "mlp family on digits: 0 of 9 members measured")


def test_partial_families_are_marked_and_name_what_failed() -> None:
    report = partial()
    page, comment = to_html(report), to_markdown(report)
    assert "<strong>Partial.</strong>" in page
    assert "**Partial.**" in comment
    for text in (page, comment):
        assert "member_failed" in text.replace("\\", "")
        assert "out of memory" in text
        assert "1 failed" in text
    assert '<span class="tag bad">failed</span>' in page
    assert '<span class="tag warn">running</span>' in page
    assert "Partial" not in to_html(whole()) + to_markdown(whole())


def plots(name: str) -> tuple[Plot, ...]:
    number = list(whole().sections).index(name)  # as on the page
    return plot_section(f"section-{number}", whole().sections[name])


def test_plots_of_one_section_have_titles_of_their_own() -> None:
    assert [plot.title for plot in plots("invariant")] == [
        "The invariant: collapsed",
        "The invariant: apart",
        "The invariant: other half",
    ]
    assert [plot.title for plot in plots("scaling_law")] == [
        f"Joint scaling law: depth {depth}" for depth in (1, 2, 3)
    ]
    assert [plot.title for plot in plots("unpruned_errors")] == ["Unpruned errors"]


def test_law_and_measured_share_an_entry_and_a_look() -> None:
    for plot in plots("scaling_law"):
        assert [entry.label for entry in plot.legend] == ["width 8", "width 16", "width 32"]
        assert plot.y_label.endswith("; lines: law, markers: measured")
        assert all(entry.kind and entry.line == "solid" for entry in plot.legend)
    collapsed, apart, other = plots("invariant")
    assert collapsed.legend[-1].label == "law for an unpruned error of 0"
    assert [entry.label for entry in apart.legend] == [
        entry.label for entry in collapsed.legend[:-1]
    ]
    assert len({entry.colour for entry in other.legend}) == 3
    drawn = len(re.findall(r"<use ", other.svg))
    assert drawn > sum(
        len(curve.x)
        for key, curve in whole().sections["invariant"].curves.items()
        if key.startswith("other half/fitted")
    ), "every point is drawn, however many"


def test_markdown_fits_a_comment() -> None:
    text = to_markdown(hostile())
    assert not re.search(
        r"<(?!/?(?:details|summary|sub|br)>)", re.sub(r"(?ms)^(`{3,})json$.*?^\1$", "", text)
    )
    many = whole().model_copy(update={"members": whole().members * 100})
    assert len(to_markdown(many)) <= COMMENT_LIMIT
    assert "Members, curves, details and spec are left out" in to_markdown(many)
    assert len(to_markdown(whole())) < 12_000


@pytest.mark.parametrize(
    ("make", "counts"),
    [
        (lambda: measured(whole(), 0.10), (2, 0, 0, 0)),
        (lambda: measured(whole(), 0.119), (2, 0, 0, 1)),
        (lambda: measured(whole(), 0.121), (2, 1, 0, 0)),
        (lambda: measured(whole(), 0.2), (2, 1, 0, 0)),
        (hostile, (4, 1, 1, 1)),
        (young, (1, 0, 1, 0)),
        (partial, (3, 0, 2, 1)),
        (lambda: world.reported(world.spec(**SMALL, max_error=[0.001])), (2, 1, 0, 0)),
    ],
)
def test_junit_counts(make: Callable[[], FamilyReport], counts: tuple[int, ...]) -> None:
    """Tests, failures, errors, skipped: an answer that measured above the tolerated error or is
    refused fails, one that is open or not proven is skipped.
    """
    suite = ET.fromstring(to_junit(make()))
    assert (
        tuple(int(suite.attrib[key]) for key in ("tests", "failures", "errors", "skipped"))
        == counts
    )
    assert (
        tuple(
            len(suite.findall(f"testcase{part}")) for part in ("", "/failure", "/error", "/skipped")
        )
        == counts
    )
    assert all(
        element.attrib["message"]
        for kind in ("failure", "error", "skipped")
        for element in suite.iter(kind)
    )


def test_titles_tell_criteria_apart() -> None:
    """Of a job with several criteria, whose names stand behind what all curves begin with."""
    curve = Curve(
        x=(0.5, 0.8),
        y=(Estimate(value=0.1), Estimate(value=0.2)),
        x_label="sparsity",
        y_label="test error, a",
    )
    curves = {
        f"law/{name}/{kind}": curve.model_copy(
            update={"y_label": f"test error, {name}", "drawn": drawn}
        )
        for name in ("a", "b")
        for kind, drawn in (
            ("law", "band"),
            ("measured", "points"),
            ("answers", "points"),
            ("plateau", "line"),
        )
    }
    first, second = plot_section("s", Section(title="Scaling law", version=1, curves=curves))
    assert (first.title, second.title) == ("Scaling law: a", "Scaling law: b")
    law, measured_, answers, plateau = first.legend
    assert law.colour == measured_.colour != answers.colour
    assert (plateau.colour, plateau.line) == ("--plot-ink", "dashed")
