"""The tables of a report's sections, and the lines that load its checkpoints."""

from __future__ import annotations

from typing import Any

from pruning.reporting import summary, to_html, to_markdown
from pruning.reporting.tables import ROWS, build_table
from pruning.schemas.report import Estimate, Report, Section
from tests.support import reports
from tests.support.page import Page


def test_records_become_tables_with_units_and_intervals() -> None:
    change, error = (
        Estimate(value=0.13716, low=0.128, high=0.1462, unit="nats_difference"),
        Estimate(value=0.1, low=0.05, high=0.2, unit="fraction"),
    )
    table = build_table(
        [
            {
                "target_sparsity": 0.95,
                "criterion": "qm",
                "loss_change": change.model_dump(),
                "error_after_retraining": error.model_dump(),
                "rank": 4.5,
                "seen": True,
            },
            {
                "target_sparsity": 0.8,
                "criterion": "lm",
                "loss_change": "overflow on 3 images",
                "rank": 12.0,
                "images": 2000,
            },
        ],
        units={"target_sparsity": "share"},
    )
    assert table is not None
    assert table.head == [
        "target sparsity",
        "criterion",
        "loss change (nats)",
        "error after retraining",
        "rank",
        "seen",
        "images",
    ]
    assert table.rows == [
        ["95 %", "qm", "+0.137 [+0.128, +0.146]", "10.0 % [5.0, 20.0]", "4.5", "yes", ""],
        ["80 %", "lm", "overflow on 3 images", "", "12", "", "2,000"],
    ]
    assert table.numeric == {0, 2, 3, 4, 6}
    by_class = build_table(
        {"a-0.5": {"cat": Estimate(value=0.5, unit="fraction").model_dump()}}, 2, "error_by_class"
    )
    assert by_class is not None
    assert (by_class.head, by_class.rows) == (["", "cat"], [["a-0.5", "50.00 %"]])
    values: tuple[Any, ...] = (
        {"iid": "checked"},
        [],
        {},
        [{"a": [1]}],
        [{"a": {"b": 1}}],
        "x",
        3,
        {"a": {}},
        {"value": 1.0, "low": None, "high": None, "n": 3},
    )
    for value in values:
        assert build_table(value) is None


def test_columns_without_a_number_to_show_are_left_to_the_json_report() -> None:
    table = build_table(
        [
            {"a": 1, "b": None, "c": {"d": 1}, "label": "x"},
            {"a": 2, "b": None, "c": {"d": 2}, "label": "y"},
        ],
        labels={"a": "images"},
    )
    assert table is not None
    assert table.head == ["images", "label"]
    assert table.rows == [["1", "x"], ["2", "y"]]


def test_long_tables_are_cut_and_say_so() -> None:
    section = Section(
        title="t", version=1, details={"rows": [{"number": i} for i in range(ROWS + 7)]}
    )
    report = reports.realistic(sections={"t": section})
    for text in ("".join(Page(to_html(report)).text), to_markdown(report)):
        assert "7 more rows are in the JSON report" in text


def test_a_section_of_tables_alone_opens_the_first() -> None:
    details = {"criteria": [{"a": 1}], "others": [{"a": 2}]}
    section = Section(title="t", version=1, details=details)
    page = to_html(reports.realistic(sections={"t": section}, checkpoints=(), rounds=()))
    assert page.count("<details open>") == 1
    assert "<details open><summary>criteria" in page
    with_curves = section.model_copy(update={"scalars": {"x": Estimate(value=1.0)}})
    assert "<details open>" not in to_html(
        reports.realistic(sections={"t": with_curves}, checkpoints=(), rounds=())
    )


def strip(document: Any, names: frozenset[str]) -> Any:
    """The document without the fields of these names, at any depth."""
    if isinstance(document, dict):
        return {key: strip(value, names) for key, value in document.items() if key not in names}
    if isinstance(document, list):
        return [strip(value, names) for value in document]
    return document


def test_a_report_from_before_units_is_read_and_shown() -> None:
    later = frozenset(
        {"unit", "units", "hidden", "x_unit", "y_unit", "x_scale", "y_scale", "label"}
    )
    document = strip(reports.realistic().model_dump(mode="json"), later)
    old = Report.model_validate(document)
    assert old.schema_version == 1
    page = "".join(Page(to_html(old)).text)
    for words in ("Robustness to corruptions", "nominal/error", "0.07", "magnitude", "snip"):
        assert words in page
    assert "Robustness to corruptions" in to_markdown(old)
    assert summary.list_labels(old) == summary.list_labels(reports.realistic())


def test_estimates_in_tables_of_any_version_are_recognised() -> None:
    old = {"value": 0.5, "low": None, "high": None, "n": 3}
    table = build_table([{"error": old}, {"error": old | {"unit": "fraction"}}])
    assert table is not None
    assert table.rows == [["0.5"], ["50.0 %"]]


def test_the_page_has_the_lines_that_load_each_checkpoint() -> None:
    report = reports.realistic()
    snippet = "import torch\n\nmean = torch.tensor([0.5])  # <b>&\n"
    first = report.checkpoints[0].model_copy(update={"load_snippet": snippet})
    text = to_html(report.model_copy(update={"checkpoints": (first, *report.checkpoints[1:])}))
    page = Page(text)
    (block,) = [attributes for tag, attributes in page.tags if attributes.get("class") == "copy"]
    assert block["aria-label"] == f"Lines that load {first.id}"
    assert snippet in page.text
    assert "user-select: all" in text
    # A report of an earlier version has none.
    assert 'id="load"' in text
    assert 'id="load"' not in to_html(report)
