"""Whole jobs on networks that answer for every pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch.nn import functional as F

from pruning.data.tensors import Data
from pruning.errors import EvidenceError
from pruning.evaluations import evaluations
from pruning.library import bound, score
from pruning.measurement.measure import Measured
from pruning.measurement.objective import (
    choose_loss,
)
from pruning.pipeline.pipeline import Networks, Pipeline
from pruning.pipeline.results import Origin, Results
from pruning.schemas.recipe import Recipe, Targets
from pruning.schemas.report import Report
from pruning.storage.stages import Stages
from pruning.verdict.baseline import check_baseline
from tests.support.finished_jobs import run_and_export
from tests.support.segmentation_world import Tiny, scenes, tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return scenes(tmp_path_factory.mktemp("data"))


def run(
    data: Data,
    folder: Path,
    criteria: list[str],
    wanted: list[dict[str, Any]] | Literal["all"],
    **changes: Any,
) -> tuple[Report, list[str]]:
    warnings: list[str] = []

    class Watcher:
        def stage(self, stage: str, name: str) -> None: ...

        def progress(self, done: float, total: float) -> None: ...

        def warn(self, message: str) -> None:
            warnings.append(message)

    recipe = Recipe(
        **(
            {
                "criterion": [{"name": name} for name in criteria],
                "targets": Targets(sparsity=(0.5,)),
                "evaluations": wanted,
                "train": {
                    "epochs": 8,
                    "batch_size": 4,
                    "optimizer": {"lr": 0.05},
                    "lr_schedule": {"name": "poly"},
                },
                "retrain": {"mode": "fine_tune", "batch_size": 4},
            }
            | changes
        )
    )
    pipeline = Pipeline(
        recipe=recipe,
        networks=Networks(Tiny),
        data=data,
        stages=Stages(folder / "stages", recipe.digest()),
        watcher=Watcher(),
        device=torch.device("cpu"),
    )
    results = Results(
        pipeline,
        Origin(
            job_id="job_1",
            spec={},
            architecture="tiny",
            kwargs={},
            model_sha256=None,
            dataset_name="scenes",
            dataset_sha256="",
        ),
        folder / "files",
    )
    run_and_export(pipeline, results)
    return results.report(*results.evaluate()), warnings


WORKING = ["magnitude", "random", "lamp", "filter_norm", "synflow", "snip", "taylor", "sipp", "pfp"]


def test_a_job_of_every_kind_of_criterion(data: Data, tmp_path: Path) -> None:
    """Criteria that need answers of images say so; the others prune, retrain and are compared: by
    weights, without data, by gradients, by inputs, and of channels.
    """
    working = ["magnitude", "synflow", "snip", "taylor", "sipp", "pfp"]
    report, _ = run(
        data, tmp_path, [*working, "obd", "obs"], [{"name": "accuracy"}, {"name": "comparison"}]
    )
    assert [checkpoint.criterion.name for checkpoint in report.checkpoints] == working
    assert {failure.name: failure.code for failure in report.failures} == {
        "obd": "missing_evidence",
        "obs": "missing_evidence",
    }
    assert all(
        "for segmentation take a criterion that" in failure.message for failure in report.failures
    )
    section = report.sections["accuracy"]
    assert section.scalars["mean_iou/given"].value > 0.3
    assert set(section.details["iou_by_class"][0]) == {"network", "class", "iou"}
    assert "mean_iou/magnitude" in section.curves
    best = next(
        checkpoint for checkpoint in report.checkpoints if checkpoint.criterion.name == "magnitude"
    )
    assert best.error == section.curves["error/magnitude"].y[0]
    assert best.error.n == len(data.test)
    assert (
        abs(best.error_increase.control.value - (best.error.value - report.control.error.value))
        < 1e-9
    )
    assert report.sections["comparison"].details["criteria"]


def test_only_what_knows_pixels_runs_by_itself(data: Data, tmp_path: Path) -> None:
    report, _ = run(data, tmp_path, ["magnitude"], "all", retrain={"mode": "none"})
    assert set(report.sections) == {
        "accuracy",
        "robustness",
        "prune_potential",
        "noise_similarity",
    }
    assert not report.failures
    robust = report.sections["robustness"]
    assert any("Student's" in note for note in robust.notes)
    assert not any("exact" in note for note in [*robust.notes, *report.sections["accuracy"].notes])
    rows = [
        row
        for row in robust.details["errors_by_shift"]
        if row["shift"] == "nominal" and row["network"] == "given"
    ]
    assert rows[0]["error"]["value"] == pytest.approx(report.baseline.error.value)


def test_the_others_are_refused_where_they_are_asked_for(data: Data, tmp_path: Path) -> None:
    others = [
        "approximation",
        "bounds",
        "certificate",
        "class_damage",
        "informative_features",
        "loss_model",
        "scaling_law",
        "sensitivity",
    ]
    methods = [{"name": name} for name in others] + [
        {"name": "noise_similarity", "params": {"draws": 2, "levels": [0, 0.3]}}
    ]
    report, _ = run(data, tmp_path, ["magnitude"], methods, retrain={"mode": "none"})
    assert {failure.name for failure in report.failures} == set(others)
    assert all(
        failure.code == "invalid_parameter"
        and "for segmentation there are accuracy" in failure.message
        for failure in report.failures
    )
    similar = report.sections["noise_similarity"]
    assert similar.curves["matching/control"].y[0].value == 1.0  # the same network, pixel by pixel
    assert similar.curves["softmax_distance/control"].y[1].value == 0.0
    known = {
        name
        for name in evaluations.names()
        if getattr(evaluations.get(name), "supports_segmentation", False)
    }
    assert known == set(evaluations.names()) - set(others)


def test_noise_similarity_is_of_pixels_that_are_not_ignored(data: Data, tmp_path: Path) -> None:
    report, _ = run(
        data,
        tmp_path,
        ["magnitude"],
        [{"name": "noise_similarity", "params": {"draws": 2, "levels": [0]}}],
        train=None,
        retrain={"mode": "fine_tune", "epochs": 2, "batch_size": 4},
    )
    similarity = report.sections["noise_similarity"].curves["matching/magnitude-0.5"].y[0].value
    assert 0 < similarity < 1


def test_a_network_no_better_than_one_class_everywhere_is_warned_of(
    data: Data, tmp_path: Path
) -> None:
    report, warnings = run(data, tmp_path, ["magnitude"], [], train=None, retrain={"mode": "none"})
    assert any("no lower than that of calling every pixel '0'" in warning for warning in warnings)
    assert report.recommendation.checkpoint is None
    messages: list[str] = []
    errors = torch.full((len(data.test),), report.baseline.error.value, dtype=torch.float64)
    measured = Measured(errors, errors, errors)
    check_baseline(measured, data, trained=True, warn=messages.append)
    assert messages[0].endswith("take a larger network")


@pytest.mark.parametrize("criterion", [*WORKING, "wanda", "lm"])
def test_the_library_scores_with_masks(data: Data, criterion: str) -> None:
    batches = list(data.batches(data.fit, 6))
    model = tiny().eval()
    scores = score(model, criterion, batches)
    assert set(scores) == {f"net.{index}.weight" for index in (0, 4, 7)}
    assert all(bool(torch.isfinite(value).all()) for value in scores.values())
    assert choose_loss(batches[0][1]) is not F.cross_entropy


@pytest.mark.parametrize("criterion", ["obd", "qm", "obs"])
def test_criteria_of_single_answers_refuse_masks(data: Data, criterion: str) -> None:
    with pytest.raises(
        EvidenceError, match="are known only for one class for each image, not for masks"
    ):
        score(tiny().eval(), criterion, list(data.batches(data.fit, 6)))


def test_bounds_refuse_masks(data: Data) -> None:
    with pytest.raises(EvidenceError, match="error bounds are known only for one class for each"):
        bound(tiny().eval(), "sipp", [0.5], list(data.batches(data.fit, 6)))
