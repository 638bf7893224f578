"""The evaluation `approximation` in whole jobs, for compacted, dead and overflowing networks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from pruning.analysis.job_record import JobRecord, RoundRecord
from pruning.evaluations.approximation import Approximation
from pruning.measurement.measure import estimate_increase, measure_network
from pruning.pipeline.evaluation_traits import reads_unretrained
from pruning.pipeline.pipeline import Pipeline
from pruning.pipeline.results import Results
from pruning.rounds.plan import keeps_unretrained, plan_rounds
from pruning.schemas.recipe import Recipe
from pruning.schemas.report import Estimate, Report, Section
from tests.support import cases
from tests.support.distances import mean_relative_error
from tests.support.finished_jobs import finish_and_export
from tests.support.pipelines import MODES, part, pretrained, tensors
from tests.support.stored_rounds import RoundInMemory

KINDS = ("accuracy", "layers", "logits", "centred", "softmax", "kl", "agreement")


def finish(recipe: Recipe, folder: Path, net: Callable[[], nn.Module] = cases.mlp) -> Results:
    results, _ = finish_and_export(recipe, folder, net)
    return results


def make_recipe(*sparsity: float, images: int = 1000, **fields: Any) -> Recipe:
    return cases.recipe(
        *sparsity, evaluations=({"name": "approximation", "params": {"images": images}},), **fields
    )


def evaluate(results: Results) -> Section:
    sections, failures = results.evaluate()
    assert failures == []
    section = sections["approximation"]
    text = json.dumps(section.model_dump(mode="json"))
    assert "NaN" not in text
    assert "Infinity" not in text
    assert Section.model_validate_json(section.model_dump_json()) == section
    return section


def make_record(pipeline: Pipeline, *rounds: RoundRecord) -> JobRecord:
    return JobRecord(
        data=pipeline.data,
        dense=pipeline.dense,
        given_measured=pipeline.given_measured,
        controls=pipeline.controls,
        rounds=rounds or pipeline.done,
        recipe=pipeline.recipe,
    )


# a job


@pytest.mark.parametrize("mode", ["fine_tune", "trained weight_rewind", "gradual"])
def test_checkpoints_are_compared_with_the_dense_network_before_and_after_retraining(
    tmp_path: Path, mode: str
) -> None:
    targets = (0.5,) if mode == "gradual" else (0.5, 0.8)
    schedule = {"name": "linear", "params": {"rounds": 2}}
    results = finish(make_recipe(*targets, schedule=schedule, **MODES[mode]), tmp_path)
    section, pipeline = evaluate(results), results.pipeline
    images = pipeline.data.normalize(pipeline.data.test.images)
    done = [row for row in pipeline.done if row.target is not None]
    assert set(section.curves) == {
        f"{kind}_{phase}/magnitude" for kind in KINDS for phase in ("before", "after")
    }
    assert all(row.unretrained() is None for row in pipeline.done if row.target is None)
    for index, round_record in enumerate(done):
        unretrained = round_record.unretrained()
        assert unretrained is not None
        assert round_record.retrained is not None
        assert torch.equal(
            measure_network(unretrained, pipeline.data).losses, round_record.pruned.losses
        )
        values: dict[str, float] = {}
        for phase, network, measured in (
            ("before", unretrained, round_record.pruned),
            ("after", round_record.network(), round_record.retrained),
        ):
            with torch.no_grad():
                a, b = (
                    net.double().get_submodule("1")(images.flatten(1).double())
                    for net in (pipeline.dense(), network)
                )
            values[phase] = section.curves[f"layers_{phase}/magnitude"].y[index].value
            assert values[phase] == pytest.approx(mean_relative_error(a, b), rel=1e-4)
            accuracy = section.curves[f"accuracy_{phase}/magnitude"].y[index]
            assert accuracy.value == pytest.approx(1 - float(measured.wrong.double().mean()))
            assert accuracy.n == 30
        row = section.details["change_by_retraining"][index]
        assert (
            row["accuracy_increase"]
            == estimate_increase(
                round_record.pruned.wrong, round_record.retrained.wrong
            ).model_dump()
        )
        assert row["change_relative_error_hidden_layers"]["value"] == pytest.approx(
            values["after"] - values["before"]
        )
        assert (
            row["change_relative_error_hidden_layers"]["low"]
            < row["change_relative_error_hidden_layers"]["high"]
        )
    assert [row["layer"] for row in section.details["layers"]] == ["1", "3"] * len(done)
    assert "relative error of logits, dense control" in section.scalars
    assert any(
        note.startswith("Paper's claim: fine-tuning recovers accuracy") for note in section.notes
    )
    assert any("no evidence: too few checkpoints" in note for note in section.notes)
    assert not any(key.startswith("spearman") for key in section.scalars)


def test_channels_that_are_gone_count_as_zero(tmp_path: Path) -> None:
    def net() -> nn.Module:
        return cases.mlp(hidden=12)

    recipe = make_recipe(
        0.5,
        criterion={"name": "filter_norm"},
        retrain={"mode": "fine_tune", "epochs": 2, "batch_size": 8},
        train={"epochs": 20, "batch_size": 8, "optimizer": {"lr": 0.05}},
    )
    results = finish(recipe, tmp_path, net)
    section, pipeline = evaluate(results), results.pipeline
    (round_record,) = pipeline.done
    assert round_record.compacted
    images = pipeline.data.normalize(pipeline.data.test.images)
    kept = round_record.masks()["1.bias"]
    small = round_record.network()
    with torch.no_grad():
        scattered = torch.zeros(30, 12)
        scattered[:, kept] = small.get_submodule("1")(images.flatten(1))
        assert scattered.shape[1] > int(kept.sum()) > 0
        a = pipeline.dense().get_submodule("1")(images.flatten(1))
        z, y = pipeline.dense()(images), small(images)
    assert section.curves["layers_after/filter_norm"].y[0].value == pytest.approx(
        mean_relative_error(a, scattered), rel=1e-5
    )
    assert section.curves["logits_after/filter_norm"].y[0].value == pytest.approx(
        mean_relative_error(z, y), rel=1e-5
    )
    unretrained = round_record.unretrained()
    assert unretrained is not None
    assert torch.equal(
        unretrained(images).argmax(1) != pipeline.data.test.labels,
        round_record.pruned.wrong,
    )


def test_without_retraining_there_is_only_before(tmp_path: Path) -> None:
    results = finish(make_recipe(0.3, 0.5, 0.7, 0.8, 0.9, images=20, **MODES["none"]), tmp_path)
    section = evaluate(results)
    assert set(section.curves) == {f"{kind}_before/magnitude" for kind in KINDS}
    assert section.curves["layers_before/magnitude"].y[0].n == 20
    assert "Means are over 20 test images of 30" in section.notes[-1]
    assert not any("claim" in note or "control" in note for note in section.notes)
    accuracy, errors = (
        [point.value for point in section.curves[f"{kind}_before/magnitude"].y]
        for kind in ("accuracy", "logits")
    )
    rho = section.scalars["spearman_before/logits"]
    assert rho.value == pytest.approx(spearmanr(errors, accuracy).statistic)
    assert rho.low is not None
    assert rho.high is not None
    assert -1 <= rho.low <= rho.value <= rho.high <= 1
    assert rho.n == 5
    rows = section.details["rank_correlation_with_accuracy"]
    assert [row["distance"] for row in rows] == [
        "hidden layers",
        "logits",
        "centred logits",
        "softmax",
        "KL divergence",
        "disagreement",
    ]
    agreement = [point.value for point in section.curves["agreement_before/magnitude"].y]
    assert section.scalars["spearman_before/disagreement"].value == pytest.approx(
        -spearmanr(agreement, accuracy).statistic
    )


def test_before_training_the_trained_networks_alone_are_compared(tmp_path: Path) -> None:
    schedule = {"name": "linear", "params": {"rounds": 2}}
    section = evaluate(
        finish(make_recipe(0.5, 0.8, schedule=schedule, **MODES["before_training"]), tmp_path)
    )
    assert set(section.curves) == {f"{kind}_after/magnitude" for kind in KINDS}
    assert len(section.curves["layers_after/magnitude"].x) == 2
    assert any("The job prunes before it trains" in note for note in section.notes)
    assert "checkpoints_after_training" in section.details


def test_a_resumed_job_has_the_same_section(tmp_path: Path) -> None:
    recipe = make_recipe(0.5, 0.8, **MODES["fine_tune"])
    first = evaluate(finish(recipe, tmp_path / "a"))
    whole = finish(recipe, tmp_path / "b")
    stages = whole.pipeline.stages
    assert evaluate(whole) == first
    read = evaluate(finish(recipe, tmp_path / "b"))
    assert read.model_dump_json() == first.model_dump_json(), "in the same order too"
    stages.drop("evaluation-approximation")
    stages.drop("round-0-002")
    assert evaluate(finish(recipe, tmp_path / "b")).model_dump_json() == first.model_dump_json()


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"evaluations": "all"}, [False, True]),
        ({}, [False, False]),
        ({"evaluations": ()}, [False, False]),
        ({"evaluations": ({"name": "accuracy"},)}, [False, False]),
        ({"evaluations": ({"name": "approximation"},)}, [False, True]),
        ({"evaluations": "all"} | MODES["none"], [False, False]),
        ({"evaluations": "all"} | MODES["before_training"], [False, False]),
    ],
)
def test_the_weights_right_after_pruning_are_kept_where_they_are_read(
    fields: dict[str, Any], kept: list[bool], tmp_path: Path
) -> None:
    recipe = cases.recipe(0.8, schedule={"name": "linear", "params": {"rounds": 2}}, **fields)
    read = reads_unretrained(recipe)
    planned_rounds = plan_rounds(recipe)
    assert [keeps_unretrained(recipe, planned, read=read) for planned in planned_rounds] == kept
    if fields == {"evaluations": "all"}:
        pipeline = finish(recipe, tmp_path).pipeline
        stages = tensors(pipeline)
        assert [bool(part(stages[f"round-0-00{n}"], "unretrained.")) for n in (1, 2)] == kept


def test_batchnorm_is_compared_as_it_was_measured(tmp_path: Path) -> None:
    recipe = make_recipe(
        0.8,
        retrain={"mode": "fine_tune", "epochs": 1, "batch_size": 8},
        train={"epochs": 4, "batch_size": 8, "optimizer": {"lr": 0.05}},
    )
    pipeline = finish(recipe, tmp_path, cases.conv_net).pipeline
    (round_record,) = pipeline.done
    assert round_record.batchnorm is not None
    unretrained = round_record.unretrained()
    assert unretrained is not None
    assert torch.equal(
        measure_network(unretrained, pipeline.data).losses, round_record.pruned.losses
    )


# what has no error


def compare(
    tmp_path: Path, dense: nn.Module, other: nn.Module, *, keeps_unretrained: bool = True
) -> Section:
    pipeline = finish(make_recipe(0.5, **MODES["fine_tune"]), tmp_path).pipeline
    (round_record,) = pipeline.done
    stored = RoundInMemory(
        build=lambda: other,
        build_unretrained=round_record.unretrained if keeps_unretrained else lambda: None,
    )
    record = JobRecord(
        data=pipeline.data,
        dense=lambda: dense,
        given_measured=pipeline.given_measured,
        controls=[replace(pipeline.controls[0], network=lambda: dense)],
        rounds=(replace(round_record, stored=stored),),
        recipe=pipeline.recipe,
    )
    section = Approximation().evaluate(record)
    text = json.dumps(section.model_dump(mode="json"))
    assert "NaN" not in text
    assert "Infinity" not in text
    return section


def test_a_layer_that_puts_out_nothing(tmp_path: Path) -> None:
    """In the pruned network its error is 1; in the dense one there is nothing to be relative to."""
    dense, dead = pretrained()[0], cases.mlp()
    alive = cases.mlp()
    alive.load_state_dict(dense)
    for name in ("1.weight", "1.bias"):
        nn.init.zeros_(dead.get_parameter(name))
    section = compare(tmp_path / "a", alive, dead)
    assert section.curves["layers_after/magnitude"].y == (
        Estimate(value=1, low=1, high=1, n=30, unit="number"),
    )
    section = compare(tmp_path / "b", dead, alive)
    assert "layers_after/magnitude" not in section.curves
    assert [
        row["relative_error_after"] for row in section.details["layers"] if row["layer"] == "1"
    ] == [None]
    assert [row["images_left_out"] for row in section.details["layers"]] == [30, 0]
    assert any("left out: 1 on 30 images" in note for note in section.notes)


@pytest.mark.parametrize("value", [math.inf, math.nan, 3e38])
def test_a_network_that_overflows_is_named(tmp_path: Path, value: float) -> None:
    dense, broken = cases.mlp(), cases.mlp()
    nn.init.constant_(broken.get_parameter("1.weight"), value)
    section = compare(tmp_path, dense, broken)
    assert "layers_before/magnitude" in section.curves
    assert not {"layers_after/magnitude", "logits_after/magnitude", "kl_after/magnitude"} & set(
        section.curves
    )
    (note,) = [note for note in section.notes if "overflows" in note]
    assert note.startswith(
        "magnitude-0.5 after retraining overflows (infinite or not a number) on up to "
    )
    assert (
        "no mean is given of 1, 3, logits, centred logits, softmax, KL divergence nor of the "
        "hidden layers" in note
    )
    assert section.details["change_by_retraining"][0]["change_relative_error_logits"] is None


def test_what_was_not_kept_is_said(tmp_path: Path) -> None:
    section = compare(tmp_path, cases.mlp(), cases.mlp(), keeps_unretrained=False)
    assert any("was not kept: magnitude-0.5" in note for note in section.notes)


def test_it_applies_to_jobs_with_a_checkpoint(tmp_path: Path) -> None:
    pipeline = finish(
        cases.recipe(0.8, schedule={"name": "linear", "params": {"rounds": 2}}, **MODES["none"]),
        tmp_path,
    ).pipeline
    assert Approximation().applies(make_record(pipeline))
    assert not Approximation().applies(make_record(pipeline, pipeline.done[0]))


def test_a_whole_report_holds_no_nan(tmp_path: Path) -> None:
    results = finish(cases.recipe(0.5, 0.8, evaluations="all", **MODES["fine_tune"]), tmp_path)
    report = results.report(*results.evaluate())
    assert "approximation" in report.sections
    assert Report.model_validate_json(report.model_dump_json()) == report
