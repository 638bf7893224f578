"""Whole jobs that estimate the statistics of BatchNorm again, or keep them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pruning.masks import apply_masks_
from pruning.measurement.measure import measure_network
from pruning.pipeline.pipeline import Networks, Pipeline
from pruning.pipeline.results import Results
from pruning.schemas.recipe import Recipe
from pruning.schemas.report import Report
from pruning.schemas.training import Optimizer, Training
from pruning.storage.stages import Stages
from pruning.training.batchnorm import reestimate_
from pruning.training.loop import train_
from tests.support import cases
from tests.support.finished_jobs import ORIGIN, run_and_export
from tests.support.pipelines import CPU, OPTIMIZER, TRAIN, Listener, State, part, tensors


def trained() -> State:
    model = cases.conv_net()
    train_(
        model,
        cases.make_data(),
        Training(epochs=6, batch_size=8, optimizer=Optimizer(lr=0.05)),
        seed=1,
        name="given",
    )
    return dict(model.state_dict())


def job(recipe: Recipe, folder: Path) -> Results:
    networks = Networks(cases.conv_net, None if recipe.train is not None else trained())
    pipeline = Pipeline(
        recipe=recipe,
        networks=networks,
        data=cases.make_data(),
        stages=Stages(folder / "stages", recipe.digest()),
        watcher=Listener(),
        device=CPU,
    )
    results = Results(pipeline, ORIGIN, folder / "files")
    run_and_export(pipeline, results)
    return results


@pytest.mark.parametrize(
    "retrain", [{"mode": "none"}, {"mode": "fine_tune", **OPTIMIZER}], ids=["none", "fine_tune"]
)
def test_a_job_measures_and_trains_the_network_with_the_kept_statistics(
    tmp_path: Path, retrain: dict[str, Any]
) -> None:
    recipe = cases.recipe(0.3, 0.9, retrain=retrain, evaluations=())
    results = job(recipe, tmp_path)
    stages, data, before = tensors(results.pipeline), cases.make_data(), "dense"
    report = results.report()
    assert Report.model_validate_json(report.model_dump_json()) == report
    for number, done in enumerate(results.pipeline.done, 1):
        name, model = f"round-0-{number:03d}", cases.conv_net().eval()
        model.load_state_dict(part(stages[before], "model."))
        masks = part(stages[name], "mask.")
        apply_masks_(model, masks)
        estimated = reestimate_(model, data, 0, number)
        assert done.batchnorm == estimated is not None
        assert torch.equal(measure_network(model, data).losses, done.pruned.losses)
        if done.retrained is not None:
            train_(model, data, recipe.retrain, seed=0, name=f"retrain-{number}", masks=masks)
        wanted = model.state_dict()
        assert all(
            torch.equal(value, wanted[key]) for key, value in part(stages[name], "model.").items()
        )
        for entry in (report.rounds[number - 1], report.checkpoints[number - 1]):
            assert entry.batchnorm is not None
            assert (entry.batchnorm.loss_before, entry.batchnorm.loss_after) == (
                estimated["before"],
                estimated["after"],
            )
            assert entry.batchnorm.kept is bool(estimated["kept"])
        before = name
    again = job(recipe, tmp_path)
    assert again.report().checkpoints[0].batchnorm == report.checkpoints[0].batchnorm


@pytest.mark.parametrize(
    "fields",
    [
        {"batchnorm": "keep", "retrain": {"mode": "none"}},
        {"when": "before_training", "train": TRAIN},
    ],
    ids=["keep", "before_training"],
)
def test_nothing_is_re_estimated_where_the_recipe_says_so(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    results = job(cases.recipe(0.9, evaluations=(), **fields), tmp_path)
    (done,) = results.pipeline.done
    report = results.report()
    assert done.batchnorm is None
    assert report.rounds[0].batchnorm is report.checkpoints[0].batchnorm is None
    if "batchnorm" in fields:
        assert torch.equal(done.network().get_buffer("1.running_mean"), trained()["1.running_mean"])
