"""The evaluation `robustness` by hand, and all evaluations under shift in odd jobs."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pruning import wording
from pruning.analysis.applicability import applies_to
from pruning.analysis.shifts import (
    NamedNetwork,
    Shift,
    compute_confidence,
    draw_sample,
)
from pruning.evaluations import evaluations
from pruning.evaluations.noise_similarity import NoiseSimilarity
from pruning.evaluations.robustness import Robustness
from pruning.measurement.intervals import binomial_interval
from pruning.pipeline.results import Results
from pruning.reporting import to_html, to_markdown
from pruning.schemas.report import Curve, Estimate
from tests.support import cases
from tests.support.finished_records import evaluate_job, finish_job, make_record
from tests.support.pipelines import MODES
from tests.support.shifted_jobs import EVALUATIONS, FEW_SHIFTS, find_slow_errors
from tests.support.stored_rounds import RoundInMemory

# whole sections against slow loops


@pytest.mark.parametrize("against", ["control", pytest.param("given", marks=pytest.mark.slow)])
def test_errors_and_excess_by_hand(cascade: Results, against: Any) -> None:
    record = make_record(cascade)
    section = Robustness(**{**FEW_SHIFTS, "images": 25}, against=against).evaluate(record)
    controls = [control for control in record.controls if against == "control"]
    shifts = [Shift(name, 2) for name in FEW_SHIFTS["corruptions"]] + [
        Shift(noise=level) for level in (0.5, 2.0)
    ]
    error = {
        (network.name, shift.name): find_slow_errors(record, network.load(), shift, 25)
        for network in (
            NamedNetwork("given", record.dense),
            *(NamedNetwork(control.name, control.network) for control in controls),
            *(NamedNetwork(row.id, row.network) for row in record.rounds),
        )
        for shift in [Shift(), *shifts]
    }
    rows = {
        (row["network"], row["shift"]): row["error"] for row in section.details["errors_by_shift"]
    }
    assert {key: row["value"] for key, row in rows.items()} == {
        key: sum(flags) / len(flags) for key, flags in error.items()
    }
    assert len(error["given", "nominal"]) == 30
    sampled = draw_sample(record, 25).dataset_indices.tolist()

    def excess(network: str) -> float:
        return (
            sum(rows[network, s.name]["value"] for s in shifts) / len(shifts)
            - sum(error[network, "nominal"][image] for image in sampled) / 25
        )

    parameters = 123
    names = ["control", "control-2", "control-3"]
    references = dict.fromkeys((1, 2, 3), "given")
    if against == "control":
        references = dict(zip((1, 2, 3), names, strict=True))
    wanted = {"given", *references.values()}
    assert {key for key in section.scalars if not key.startswith("delta")} == {
        f"excess_error/{name}" for name in wanted
    }
    words = {"control": "the dense control", "given": "the network as given"}[against]
    (lost,) = [note for note in section.notes if note.startswith(f"Lost against {words}")]
    targets = [row for row in record.rounds if row.target is not None]
    increases = [
        sum(
            error[row.id, "nominal"][image] - error[references[row.round], "nominal"][image]
            for image in sampled
        )
        / 25
        for row in targets
    ]
    nominal = wording.percentage_points(sum(increases) / len(increases))
    assert f"nominally, on the images that are shifted, {nominal}. The order" in lost
    assert any(f"of a pruned network less that of {words}:" in note for note in section.notes)
    for label in ("magnitude", "random"):
        rounds = [row for row in record.rounds if row.label == label]
        ratios = [
            sum(int((~mask).sum()) for mask in row.masks().values()) / parameters for row in rounds
        ]
        assert section.curves[f"excess/{label}"].x == pytest.approx(ratios)
        assert ratios == sorted(ratios)
        for kind, expected in (
            ("excess", [excess(row.id) for row in rounds]),
            ("delta_excess", [excess(row.id) - excess(references[row.round]) for row in rounds]),
            ("nominal", [rows[row.id, "nominal"]["value"] for row in rounds]),
        ):
            assert [y.value for y in section.curves[f"{kind}/{label}"].y] == pytest.approx(expected)
        slope = np.linalg.lstsq(
            np.array(ratios)[:, None],
            np.array([y.value for y in section.curves[f"delta_excess/{label}"].y]),
            rcond=None,
        )[0][0]
        assert section.scalars[f"delta_excess_error_slope/{label}"].unit == "points"
        assert section.scalars[f"delta_excess_error_slope/{label}"].value == pytest.approx(
            float(slope)
        )
        assert section.curves[f"line/{label}"].y[-1].value == pytest.approx(float(slope))
        assert section.curves[f"nominal/{label}"].y[0] == binomial_interval(
            sum(error[rounds[0].id, "nominal"]), 30
        )
    for curve in section.curves.values():
        assert all(
            y.low is not None and y.high is not None and y.low <= y.value <= y.high for y in curve.y
        )


def test_growth_is_told_where_there_are_four_ratios_and_level_elsewhere(
    cascade: Results, tmp_path: Path
) -> None:
    few = Robustness(corruptions=("fog",), images=10).evaluate(make_record(cascade))
    assert "This is its level" in few.notes[0]
    assert "4 ratios or more" in few.notes[0]
    assert "delta_excess_error_growth/random" not in few.scalars
    results = finish_job(cases.recipe(0.2, 0.4, 0.6, 0.8, **MODES["none"]), tmp_path)
    section = Robustness(corruptions=("fog", "contrast"), images=25).evaluate(make_record(results))
    growth = section.scalars["delta_excess_error_growth/magnitude"]
    delta = section.curves["delta_excess/magnitude"]
    assert growth.value == pytest.approx(np.polyfit(delta.x, [y.value for y in delta.y], 1)[0])
    level = section.scalars["delta_excess_error/magnitude"]
    assert level.value == pytest.approx(np.mean([y.value for y in delta.y]))
    assert growth.low is not None
    assert growth.high is not None
    if growth.low <= 0 <= growth.high:
        assert "no evidence that it grows or falls" in section.notes[0]
    else:
        assert "In this run it" in section.notes[0]


# odd jobs


@pytest.mark.parametrize("mode", ["none", "before_training", "trained lr_rewind", "gradual"])
def test_every_kind_of_job(tmp_path: Path, mode: str) -> None:
    sections = evaluate_job(
        finish_job(cases.recipe(0.8, **MODES[mode], evaluations=EVALUATIONS), tmp_path)
    )
    robust = sections["robustness"]
    assert list(sections) == [method["name"] for method in EVALUATIONS]
    if mode in ("none", "before_training"):
        assert robust.scalars["excess_error/control"] == robust.scalars["excess_error/given"]
    assert robust.scalars["delta_excess_error_slope/magnitude"].low is None
    assert "one checkpoint has no band" in robust.notes[0]


@pytest.mark.parametrize(("shape", "classes", "test"), [((1, 8, 8), 2, 1), ((3, 5, 7), 2, 4)])
def test_channels_few_images_and_two_classes(
    tmp_path: Path, shape: tuple[int, int, int], classes: int, test: int
) -> None:
    def net() -> nn.Module:
        return cases.conv_net(classes=classes, channels=shape[0], features=4 * shape[1] * shape[2])

    results = finish_job(
        cases.recipe(
            0.5,
            criterion={"name": "filter_norm"},
            evaluations=EVALUATIONS,
            **MODES["trained fine_tune"],
        ),
        tmp_path,
        net,
        cases.make_data(shape=shape, classes=classes, test=test),
    )
    assert results.pipeline.done[0].compacted
    sections = evaluate_job(results)
    assert 0.4 < sections["robustness"].curves["excess/filter_norm"].x[0] < 0.6


def test_a_report_shows_pictures_and_names_bars(tmp_path: Path, drawn: None) -> None:
    results = finish_job(cases.recipe(0.5, evaluations=EVALUATIONS, **MODES["none"]), tmp_path)
    sections = evaluate_job(results)
    results.export(results.pipeline.done[0])
    report = results.report(sections)
    assert sections["robustness"].curves["excess/magnitude"].x == (
        report.checkpoints[0].prune_ratio,
    )
    page, text = to_html(report), to_markdown(report)
    assert page.count('<img src="data:image/png;base64,') == 3
    assert "img-src data:" in page
    assert "2:\N{NO-BREAK SPACE}fog\N{NO-BREAK SPACE}2" in page
    assert "| fog 2 |" in text


def test_networks_that_overflow_are_sure_of_nothing(cascade: Results) -> None:
    def broken() -> nn.Module:
        model = cascade.pipeline.dense()
        with torch.no_grad():
            model.get_parameter("3.weight").fill_(3e38)
        return model

    record = make_record(cascade)
    stored = RoundInMemory(build=broken)
    record = replace(record, rounds=[replace(row, stored=stored) for row in record.rounds])
    for method in EVALUATIONS:
        section = evaluations.create(str(method["name"]), method["params"]).evaluate(record)
        json.dumps(section.model_dump(mode="json"), allow_nan=False)
    assert compute_confidence(torch.tensor([[math.inf, 0.0], [0.0, 0.0]])).tolist() == [
        [0.0, 0.0],
        [0.5, 0.5],
    ]


def test_bars_say_what_they_are() -> None:
    with pytest.raises(ValueError, match="x_names"):
        Curve(x=(0,), y=(Estimate(value=1.0),), x_label="a", y_label="b", x_names=("one", "two"))


def test_applies_only_to_images_that_can_be_corrupted(tmp_path: Path) -> None:
    results = finish_job(
        cases.recipe(0.5, **MODES["trained fine_tune"]),
        tmp_path,
        lambda: cases.mlp(inputs=32),
        cases.make_data(shape=(2, 4, 4)),
    )
    assert not Robustness().applies(make_record(results))
    assert applies_to(NoiseSimilarity(), make_record(results)), "noise can be added to any"
