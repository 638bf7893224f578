"""Checkpoint files, evaluations, report, recommendation, gates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pruning.errors import EvidenceError
from pruning.evaluations.accuracy import Accuracy
from pruning.masks import count_kept
from pruning.measurement.measure import estimate_increase, measure_network
from pruning.pipeline.descriptions import describe_layers
from pruning.schemas.report import Report
from pruning.storage.checkpoints import WRITERS, read_masks, read_sparse
from tests.support import cases
from tests.support.finished_jobs import finish_and_export as finished
from tests.support.pipelines import MODES


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [("none", ()), ("fine_tune", None), ("before_training", ({"name": "accuracy"},))],
)
def test_files_hold_the_very_weights_that_were_evaluated(
    tmp_path: Path, mode: str, wanted: tuple[dict[str, Any], ...] | None
) -> None:
    """All evaluations of a job that names none in one of the modes."""
    recipe = cases.recipe(0.5, 0.8, exclude=("3.weight",), **MODES[mode] | {"evaluations": wanted})
    results, files = finished(recipe, tmp_path)
    sections, failures = results.evaluate()
    report = results.report(sections, failures)
    assert failures == []
    assert [(cid, format) for cid, format, _ in files] == [
        (cid, format) for cid in ("magnitude-0.5", "magnitude-0.8") for format in WRITERS
    ]
    assert Report.model_validate_json(report.model_dump_json()) == report
    data = cases.make_data()
    for checkpoint in report.checkpoints:
        paths = {format: path for cid, format, path in files if cid == checkpoint.id}
        sparse, masks = read_sparse(paths["sparse"]), read_masks(paths["masks"])
        dense = load_file(paths["dense"])
        assert all(torch.equal(value, dense[name]) for name, value in sparse.items())
        model = cases.mlp()
        model.load_state_dict(sparse)
        assert measure_network(model, data).document() == (
            checkpoint.retrained or checkpoint.pruned
        )
        assert checkpoint.error == (checkpoint.retrained or checkpoint.pruned).error
        assert count_kept(masks) == {"1.weight": checkpoint.layers[0].kept}
        assert list(masks) == ["1.weight"]
        assert checkpoint.parameters == 123 - 96 + checkpoint.layers[0].kept
        assert checkpoint.prune_ratio == (96 - checkpoint.layers[0].kept) / 123
        assert checkpoint.sparsity == 1 - checkpoint.layers[0].kept / 96
        assert checkpoint.flops == 2 * (checkpoint.layers[0].kept + 18)
        assert {format: path.stat().st_size for format, path in paths.items()} == {
            format: size
            for format, size in checkpoint.size_bytes.items()
            if not format.endswith("_gzip")
        }
        assert [layer.reason for layer in checkpoint.layers] == [
            None,
            "bias",
            "excluded by the recipe",
            "bias",
        ]
    assert report.baseline.parameters == 123
    assert report.baseline.sparsity == 0
    assert (report.control.error == report.baseline.error) or mode == "fine_tune"
    assert report.recipe_digest == recipe.digest()
    assert set(report.usage) >= {"dense", "control"}


@pytest.mark.parametrize("mode", ["fine_tune", "lr_rewind"])
def test_a_network_trained_with_l1_says_how_sparse_it_is(tmp_path: Path, mode: str) -> None:
    """Fine-tuning has no penalty, rewinding replays it; excluded weights are neither penalised nor
    counted.
    """
    train = {"epochs": 4, "batch_size": 8, "optimizer": {"lr": 0.05}, "penalty": {"l1": 0.03}}
    retrain = {"mode": mode} | (
        {"epochs": 4, "optimizer": {"lr": 0.05}} if mode == "fine_tune" else {}
    )
    results, _ = finished(
        cases.recipe(0.9, train=train, retrain=retrain, exclude=("3.weight",)), tmp_path
    )
    report, dense = results.report(), results.pipeline.dense()
    weight = dense.get_parameter("1.weight")
    assert report.baseline.sparsity == int((weight == 0).sum()) / 96 > 0.1
    assert report.baseline.density == 1 - report.baseline.sparsity
    assert report.baseline.parameters == 123
    assert dense.get_parameter("3.weight").all()
    assert (report.control.sparsity > 0.1) == (mode == "lr_rewind")


def test_increases_are_paired_with_given_and_control(tmp_path: Path) -> None:
    results, _ = finished(cases.recipe(0.8, **MODES["fine_tune"]), tmp_path)
    pipeline = results.pipeline
    (checkpoint,) = results.report().checkpoints
    (done,) = pipeline.done
    assert done.retrained is not None
    assert checkpoint.error_increase.given == estimate_increase(
        done.retrained.wrong, pipeline.given_measured.wrong
    )
    assert checkpoint.error_increase.control == estimate_increase(
        done.retrained.wrong, pipeline.controls[0].measured.wrong
    )
    assert checkpoint.val_error_increase == estimate_increase(
        done.retrained.val_wrong, pipeline.controls[0].measured.val_wrong
    )


def test_a_rerun_gives_the_same_report_without_work(tmp_path: Path) -> None:
    wanted = ({"name": "accuracy"}, {"name": "bounds", "params": {"images": 5}})
    recipe = cases.recipe(0.5, evaluations=wanted, **MODES["fine_tune"])
    results, files = finished(recipe, tmp_path)
    before = {path: path.read_bytes() for *_, path in files}
    first = results.report(*results.evaluate())
    again, later = finished(recipe, tmp_path)
    second = again.report(*again.evaluate())
    assert later == []
    assert {path: path.read_bytes() for path in before} == before
    same = {"usage", "warnings"}  # usage also times the evaluation where it was made
    assert first.model_dump(exclude=same) == second.model_dump(exclude=same)


def test_two_runs_give_the_same_files(tmp_path: Path) -> None:
    recipe = cases.recipe(0.5, 0.8, **MODES["trained weight_rewind"])
    files, other = (finished(recipe, tmp_path / name)[1] for name in "ab")
    assert [path.read_bytes() for *_, path in files] == [path.read_bytes() for *_, path in other]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EvidenceError("no corruptions"), "missing_evidence"),
        (ZeroDivisionError("oops"), "evaluation_failed"),
    ],
)
def test_an_evaluation_that_fails_costs_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    def fail(self: Accuracy, record: Any) -> None:
        raise error

    recipe = cases.recipe(0.5, retrain={"mode": "none"}, evaluations=({"name": "accuracy"},))
    results, files = finished(recipe, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Accuracy, "evaluate", fail)
        sections, failures = results.evaluate()
    assert sections == {}
    (failure,) = failures
    assert (failure.name, failure.code) == ("accuracy", code)
    assert str(error) in failure.message
    report = results.report(sections, failures, partial=True)
    assert len(report.checkpoints) == 1
    assert report.partial
    assert report.checkpoints[0].partial
    assert all(path.exists() for *_, path in files)
    assert list(results.evaluate()[0]) == ["accuracy"], (
        "a failure is not kept as if it were an answer"
    )


def test_an_unknown_evaluation_is_a_failure_too(tmp_path: Path) -> None:
    results, _ = finished(
        cases.recipe(0.5, retrain={"mode": "none"}, evaluations=({"name": "acuracy"},)), tmp_path
    )
    _, (failure,) = results.evaluate()
    assert failure.code == "unknown_name"
    assert "did you mean 'accuracy'" in failure.message


def test_a_report_before_any_target_is_whole(tmp_path: Path) -> None:
    results, _ = finished(cases.recipe(0.5, retrain={"mode": "none"}), tmp_path)
    results.pipeline.done.clear()
    report = results.report(partial=True)
    assert report.checkpoints == ()
    assert report.rounds == ()
    assert report.recommendation.checkpoint is None
    assert "No checkpoint was finished" in report.recommendation.reason


def test_accuracy_by_hand(tmp_path: Path) -> None:
    recipe = cases.recipe(
        0.5,
        0.8,
        schedule={"name": "linear", "params": {"rounds": 2}},
        evaluations=({"name": "accuracy"},),
        **MODES["before_training"],
    )
    results, _ = finished(recipe, tmp_path)
    section = results.evaluate()[0]["accuracy"]
    done = results.pipeline.done
    targets = [record for record in done if record.target is not None]
    assert section.curves["error/magnitude"].x == tuple(record.sparsity for record in targets)
    assert section.curves["error_before_retraining/magnitude"].x == tuple(
        record.sparsity for record in done
    )
    for curve, record in zip(section.curves["error/magnitude"].y, targets, strict=True):
        assert curve == record.measured.document().error
    labels = cases.make_data().test.labels
    for record in targets:
        row = section.details["error_by_class"][f"magnitude-{record.target:g}"]
        for index, name in enumerate("abc"):
            wrong = [
                bool(w)
                for w, label in zip(record.measured.wrong, labels, strict=True)
                if label == index
            ]
            assert row[name]["value"] == sum(wrong) / len(wrong)
    json.dumps(section.details)


def test_the_table_of_layers_tells_what_was_asked_and_why_a_layer_is_dense() -> None:
    model = cases.mlp()
    recipe = cases.recipe(0.5, include=["3"], overrides={"3.*": 0.25})
    masks = {"3.weight": cases.half_masks(model)["3.weight"]}
    layers = {layer.name: layer for layer in describe_layers(model, masks, recipe)}
    assert layers["3.weight"].asked == 0.25
    assert layers["3.weight"].reason is None
    assert layers["1.weight"].asked is None
    assert layers["1.weight"].reason == "not included by the recipe"


def test_layers_of_awkward_networks_are_all_listed() -> None:
    for name in cases.AWKWARD:
        model, _ = cases.awkward(name)
        layers = describe_layers(model, cases.half_masks(model), cases.recipe(0.5))
        assert [layer.name for layer in layers] == [key for key, _ in model.named_parameters()]
        assert all(
            (layer.reason is None) == (layer.name in cases.half_masks(model)) for layer in layers
        )
        assert sum(layer.total for layer in layers) == sum(p.numel() for p in model.parameters())


def test_ids_are_unique_and_fit_in_a_url(tmp_path: Path) -> None:
    recipe = cases.recipe(
        0.5,
        0.5000001,
        retrain={"mode": "none"},
        criterion=({"name": "magnitude"}, {"name": "random"}),
    )
    results, _ = finished(recipe, tmp_path)
    ids = [record.id for record in results.pipeline.done]
    assert ids == ["magnitude-0.5", "magnitude-0.5000001", "random-0.5", "random-0.5000001"]
