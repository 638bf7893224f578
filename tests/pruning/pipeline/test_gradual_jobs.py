"""Jobs that prune gradually, while they train."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning.data.tensors import Split
from pruning.errors import ParameterError
from pruning.masks import apply_masks_
from pruning.pipeline.pipeline import Networks, Pipeline
from pruning.rounds.plan import plan_rounds
from pruning.schemas.training import Optimizer, Training
from pruning.storage.stages import Stages
from pruning.training.loop import train_
from tests.support import cases
from tests.support.pipelines import (
    CPU,
    Listener,
    make,
    part,
    run,
    tensors,
)

GRADUAL: dict[str, Any] = {
    "mode": "gradual",
    "epochs": 5,
    "prune_epochs": 4,
    "batch_size": 8,
    "lr_schedule": {"name": "cosine", "warmup_epochs": 1},
}


def test_gradual_rounds_and_the_control_share_one_schedule(tmp_path: Path) -> None:
    recipe = cases.recipe(
        0.5,
        0.8,
        independent=True,
        schedule={"name": "cubic", "params": {"rounds": 3, "initial": 0.1}},
        retrain=GRADUAL | {"optimizer": {"lr": 0.05}},
    )
    pipeline = run(recipe, tmp_path)
    stages, data = tensors(pipeline), cases.make_data()
    spans = [(0, 1), (1, 2), (2, 5)]
    assert [planned.epochs for planned in plan_rounds(recipe)] == spans * 2
    for number, (start, stop) in enumerate(spans * 2, 1):
        name, before = (
            f"round-0-{number:03d}",
            "dense" if start == 0 else f"round-0-{number - 1:03d}",
        )
        model, masks = cases.mlp(), part(stages[name], "mask.")
        model.load_state_dict(part(stages[before], "model."))
        apply_masks_(model, masks)
        train_(
            model,
            data,
            recipe.retrain,
            seed=0,
            name="retrain-1",
            masks=masks,
            start_epoch=start,
            stop_epoch=stop,
        )
        wanted = model.state_dict()
        assert all(
            torch.equal(value, wanted[key]) for key, value in part(stages[name], "model.").items()
        ), name
    control = pipeline.dense()
    for number, (start, stop) in enumerate(spans, 1):
        train_(
            control,
            data,
            recipe.retrain,
            seed=0,
            name="retrain-1",
            start_epoch=start,
            stop_epoch=stop,
        )
        wanted = control.state_dict()
        assert all(
            torch.equal(value, wanted[key])
            for key, value in part(stages[f"control-{number:03d}"], "model.").items()
        )
    assert [record.retrain_epochs for record in pipeline.done] == [1, 2, 5] * 2


def test_gradual_pruning_of_what_does_nothing_is_one_undisturbed_training(tmp_path: Path) -> None:
    """Weights of black pixels are zero and have no gradient: to prune them by and by changes no
    byte of the training.
    """
    data = cases.make_data()
    fit, val, test = (
        Split(split.images.clone(), split.labels) for split in (data.fit, data.val, data.test)
    )
    for split in (fit, val, test):
        split.images[:, :, 3] = 0
    data = replace(data, mean=(0.0,), fit=fit, val=val, test=test)
    model = cases.mlp()
    masks = {"1.weight": torch.arange(16).lt(12).expand(6, 16)}
    train_(
        model,
        data,
        Training(epochs=4, batch_size=8, optimizer=Optimizer(lr=0.05)),
        seed=9,
        name="given",
        masks=masks,
    )
    recipe = cases.recipe(
        0.25,
        exclude=("3.weight",),
        keep_zeros=False,
        schedule={"name": "linear", "params": {"rounds": 4}},
        retrain=GRADUAL | {"optimizer": {"lr": 0.05, "momentum": 0, "weight_decay": 0}},
    )
    pipeline = Pipeline(
        recipe=recipe,
        networks=Networks(cases.mlp, dict(model.state_dict())),
        data=data,
        stages=Stages(tmp_path, recipe.digest()),
        watcher=Listener(),
        device=CPU,
    )
    pipeline.run()
    assert [record.density for record in pipeline.done] == [
        1 - 6 / 96,
        1 - 12 / 96,
        1 - 18 / 96,
        0.75,
    ]
    assert torch.equal(pipeline.done[-1].masks()["1.weight"], masks["1.weight"])
    train_(model, data, recipe.retrain, seed=0, name="retrain-1")
    control = pipeline.controls[0].network().state_dict()
    pruned = pipeline.done[-1].network().state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(control[key], value)
        assert torch.equal(pruned[key], value)
    assert not torch.equal(control["1.weight"], pipeline.dense().state_dict()["1.weight"])


def test_more_rounds_than_pruning_epochs_are_refused_before_anything_runs(tmp_path: Path) -> None:
    recipe = cases.recipe(
        0.5, schedule={"name": "linear", "params": {"rounds": 5}}, retrain=GRADUAL
    )
    with pytest.raises(ParameterError, match="5 rounds do not fit into 4 epochs of pruning"):
        make(recipe, tmp_path)
