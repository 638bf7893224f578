"""The answers of the service in a notebook."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import matplotlib
import pytest

from secateur import Client
from secateur.wire import Job, Results
from tests.support.commands import JOB
from tests.support.imitation import Imitation, job, results


@pytest.fixture
def outcome() -> Results:
    return Results.model_validate(results())


def test_texts_are_short(outcome: Results) -> None:
    shown = Job.model_validate(job("running", spec={"type": "prune", "labels": {"a": "b" * 500}}))
    assert repr(shown).startswith(f"Job(id='{shown.id}', ")
    for answer in (shown, outcome, *outcome.checkpoints):
        assert len(repr(answer)) <= 160
        assert str(answer) == repr(answer)
    assert repr(outcome).startswith(f"Results(job='{outcome.job.id}', status='succeeded', ")


def test_html_is_a_table_without_what_a_name_could_smuggle_in(outcome: Results) -> None:
    text = outcome._repr_html_()
    assert text.count("<tr>") == 1 + len(outcome.checkpoints)
    assert all(f"<td>{checkpoint.id}</td>" in text for checkpoint in outcome.checkpoints)
    shown = Job.model_validate(job() | {"stage": "<script>"})
    assert "&lt;script&gt;" in shown._repr_html_()
    assert outcome.model_copy(update={"checkpoints": ()})._repr_html_().startswith("<table>")


def test_a_data_frame_has_a_row_for_each_checkpoint(
    outcome: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    pandas: Any = ModuleType("pandas")
    pandas.DataFrame = list
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    frame = outcome.to_dataframe()
    assert [row["checkpoint"] for row in frame] == [each.id for each in outcome.checkpoints]
    first, row = outcome.checkpoints[0], frame[0]
    assert first.error is not None
    assert (row["error"], row["error_low"]) == (first.error.value, first.error.low)
    reported = (outcome.report or {})["checkpoints"][0]["error_increase"]
    assert row["over_control"] == reported["control"]["value"]
    assert row["over_given"] == reported["given"]["value"]


def test_a_plot_has_a_line_for_each_criterion(outcome: Results) -> None:
    matplotlib.use("Agg")
    axes = outcome.plot()
    assert axes.get_xlabel() == "sparsity"
    drawn = [point for line in axes.lines for point in line.get_xdata()]
    for checkpoint in outcome.checkpoints:
        assert checkpoint.sparsity in drawn
    assert outcome.plot(axes) is axes


@pytest.mark.parametrize(
    ("method", "package"), [("to_dataframe", "pandas"), ("plot", "matplotlib")]
)
def test_what_is_not_installed_is_named(
    outcome: Results, monkeypatch: pytest.MonkeyPatch, method: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.pyplot", None)
    with pytest.raises(ImportError, match=f"needs {package}, .* pip install {package}"):
        getattr(outcome, method)()


def test_the_checkpoints_of_a_running_job(service: Imitation, client: Client) -> None:
    rows = results()["checkpoints"]
    service.on(f"GET {JOB}/checkpoints", {"data": rows})
    listed = client.jobs.checkpoints(JOB.rpartition("/")[2])
    assert [checkpoint.id for checkpoint in listed] == [row["id"] for row in rows]
