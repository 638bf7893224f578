"""The dense controls of a job: trained as its checkpoints are, and compared with them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pruning.measurement.measure import estimate_increase
from pruning.reporting import to_html, to_markdown
from pruning.seeding import generator
from pruning.storage.stages import Stages
from tests.support import cases
from tests.support.finished_records import evaluate_job, finish_job
from tests.support.pipelines import MODES, State, part, pretrained, run, tensors

LINEAR: dict[str, Any] = {"schedule": {"name": "linear", "params": {"rounds": 2}}}
ONE_ROUND: dict[str, Any] = {"control": {"budget": "one_round"}}
ACCURACY: dict[str, Any] = {"evaluations": [{"name": "accuracy"}]}


class InterruptionError(Exception):
    """The process dies here."""


def check_same(first: State, second: State) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def retrain_plainly(model: nn.Module, name: str, epochs: int) -> None:
    """Stochastic gradient descent with momentum, from a fresh optimiser."""
    data = cases.make_data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    model.train()
    for epoch in range(epochs):
        rng = generator(0, name, "order", epoch)
        for batch in torch.randperm(len(data.fit), generator=rng).split(8):
            optimizer.zero_grad()
            outputs = model(data.normalize(data.fit.images[batch]))
            nn.functional.cross_entropy(outputs, data.fit.labels[batch]).backward()
            optimizer.step()
    model.eval()


def test_the_controls_are_those_of_a_loop_in_plain_torch(tmp_path: Path) -> None:
    recipe = cases.recipe(0.5, 0.8, **MODES["fine_tune"], **LINEAR)
    pipeline = run(recipe, tmp_path)
    stages = tensors(pipeline)
    model = cases.mlp()
    model.load_state_dict(pretrained()[0])
    for number, stage in enumerate(("control", "control-002", "control-003", "control-004"), 1):
        retrain_plainly(model, f"retrain-{number}", epochs=2)
        check_same(part(stages[stage], "model."), dict(model.state_dict()))
    assert "control.wrong" not in stages["control"], "a control between targets is not measured"
    assert "control.wrong" in stages["control-002"]


@pytest.mark.parametrize("mode", ["fine_tune", "lr_rewind", "trained weight_rewind", "distilled"])
def test_a_job_with_one_target_has_the_control_of_one_round(tmp_path: Path, mode: str) -> None:
    matched = run(cases.recipe(0.8, **MODES[mode]), tmp_path / "matched")
    single = run(cases.recipe(0.8, **MODES[mode], **ONE_ROUND), tmp_path / "one")
    check_same(tensors(matched)["control"], tensors(single)["control"])
    assert [name for name in tensors(matched) if name.startswith("control")] == ["control"]


def test_gradual_controls_restart_the_optimiser_as_the_rounds_do(tmp_path: Path) -> None:
    """With momentum, a training of two parts is another than one without a restart."""
    recipe = cases.recipe(0.8, **MODES["gradual"], **LINEAR)
    stages = tensors(run(recipe, tmp_path / "matched"))
    assert [name for name in stages if name.startswith("control")] == ["control-001", "control-002"]
    one_round = cases.recipe(0.8, **MODES["gradual"], **LINEAR, **ONE_ROUND)
    single = tensors(run(one_round, tmp_path / "one"))
    assert not torch.equal(
        single["control"]["model.1.weight"], stages["control-002"]["model.1.weight"]
    )


def test_several_criteria_share_the_controls(tmp_path: Path) -> None:
    criteria = ({"name": "magnitude"}, {"name": "random"})
    recipe = cases.recipe(0.5, 0.8, criterion=criteria, **MODES["fine_tune"])
    saved: list[str] = []
    pipeline = run(recipe, tmp_path, on_saved=lambda name, path: saved.append(name))
    finished = [name for name in saved if "-control" in name and "partial" not in name]
    assert len(finished) == 2
    assert pipeline.counted == pipeline.costs.total
    assert [control.retrainings for control in pipeline.controls] == [1, 2]


@pytest.mark.parametrize("mode", ["fine_tune", "lr_rewind", "gradual"])
def test_a_job_that_dies_between_or_inside_controls_ends_with_the_same_bytes(
    tmp_path: Path, mode: str
) -> None:
    targets = (0.8,) if mode == "gradual" else (0.5, 0.8)
    recipe = cases.recipe(*targets, **MODES[mode], **LINEAR)
    whole = tensors(run(recipe, tmp_path / "whole"))
    deaths = 0

    def die_at_a_control(name: str, path: Path) -> None:
        nonlocal deaths
        if "-control" in name:
            deaths += 1
            raise InterruptionError

    finished = False
    while not finished:
        with contextlib.suppress(InterruptionError):
            run(recipe, tmp_path / "torn", on_saved=die_at_a_control)
            finished = True
    # Each control is saved once, and each partial state inside one.
    assert deaths > len([name for name in whole if name.startswith("control")])
    torn = tensors(run(recipe, tmp_path / "torn"))
    assert torn.keys() == whole.keys()
    for stage, content in whole.items():
        check_same(torn[stage], content)


def test_each_checkpoint_is_compared_with_the_control_of_its_training(tmp_path: Path) -> None:
    recipe = cases.recipe(0.5, 0.8, **MODES["fine_tune"], **ACCURACY)
    results = finish_job(recipe, tmp_path)
    pipeline = results.pipeline
    for record in pipeline.done:
        results.export(record)
    sections = evaluate_job(results)
    report = results.report(sections)
    assert [control.name for control in report.controls] == ["control", "control-2"]
    assert [control.retrain_epochs for control in report.controls] == [2, 4]
    assert [control.retrainings for control in report.controls] == [1, 2]
    assert [control.costs_of for control in report.controls] == [None, "control"]
    assert report.control.error == report.controls[0].error
    text = to_markdown(report)
    assert "\n| control | – | " in text
    assert "\n| control-2 | – | " in text
    assert "dense control" in to_html(report)
    measured = [control.measured for control in pipeline.controls]
    rows = zip(pipeline.done, measured, report.checkpoints, report.controls, strict=True)
    curve = sections["accuracy"].curves["increase/magnitude"]
    for place, (record, control, checkpoint, described) in enumerate(rows):
        assert checkpoint.control == described.name
        assert checkpoint.retrain_epochs == described.retrain_epochs
        assert described.error == control.document().error
        increase = estimate_increase(record.measured.wrong, control.wrong)
        assert checkpoint.error_increase.control == increase
        assert curve.y[place] == increase
        assert checkpoint.val_error_increase == estimate_increase(
            record.measured.val_wrong, control.val_wrong
        )


def test_a_round_between_targets_has_no_point_on_the_curve_over_the_control(
    tmp_path: Path,
) -> None:
    recipe = cases.recipe(0.5, 0.8, **MODES["fine_tune"], **LINEAR, **ACCURACY)
    sections = evaluate_job(finish_job(recipe, tmp_path / "matched"))
    assert len(sections["accuracy"].curves["error/magnitude"].x) == 4
    assert len(sections["accuracy"].curves["increase/magnitude"].x) == 2
    single = cases.recipe(0.5, 0.8, **MODES["fine_tune"], **LINEAR, **ONE_ROUND, **ACCURACY)
    sections = evaluate_job(finish_job(single, tmp_path / "one"))
    assert len(sections["accuracy"].curves["increase/magnitude"].x) == 4


def test_the_files_of_an_earlier_job_are_used(tmp_path: Path) -> None:
    """An earlier version trained the control of one round alone."""
    recipe = cases.recipe(0.5, 0.8, **MODES["fine_tune"])
    pipeline = run(recipe, tmp_path)
    whole = tensors(pipeline)
    Stages(tmp_path, recipe.digest()).drop("control-002")
    saved: list[str] = []
    again = run(recipe, tmp_path, on_saved=lambda name, path: saved.append(name))
    assert {name.partition("-")[2].partition(".")[0] for name in saved} == {"control-002"}
    check_same(tensors(again)["control-002"], whole["control-002"])
    assert again.ledger.warnings == pipeline.ledger.warnings


def test_sections_of_another_version_are_computed_again(tmp_path: Path) -> None:
    recipe = cases.recipe(0.5, **MODES["fine_tune"], **ACCURACY)
    results = finish_job(recipe, tmp_path)
    sections = evaluate_job(results)
    stages = results.pipeline.stages
    stored = stages.open("evaluation-accuracy")
    assert stored is not None
    old = stored.note["section"] | {"version": 0, "scalars": {}}
    stages.save("evaluation-accuracy", {}, {"section": old})
    assert evaluate_job(results)["accuracy"] == sections["accuracy"]
