"""Whole jobs whose pruned networks learn from the dense network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.masks import apply_masks_
from pruning.rounds.control_plan import plan_controls
from pruning.rounds.plan import plan_rounds
from pruning.schemas.recipe import Distill
from pruning.schemas.training import Training
from pruning.training.loop import Teacher, train_
from tests.support import cases
from tests.support.pipelines import MODES, OPTIMIZER, TRAIN, make, part, pretrained, run, tensors
from tests.support.trainings import same


def distilled(mode: str, **constants: float) -> dict[str, Any]:
    fields = MODES[mode]
    return fields | {"retrain": fields["retrain"] | {"distill": constants or True}}


@pytest.mark.parametrize(
    "mode",
    [
        "fine_tune",
        "gradual",
        *(
            pytest.param(mode, marks=pytest.mark.slow)
            for mode in ("weight_rewind", "trained lr_rewind", "l1 weight_rewind")
        ),
    ],
)
def test_every_mode_learns_from_the_dense_network_and_the_control_alike(
    tmp_path: Path, mode: str
) -> None:
    recipe = cases.recipe(
        0.5,
        0.8,
        independent=True,
        schedule={"name": "linear", "params": {"rounds": 2}},
        **distilled(mode, alpha=0.8, temperature=2.0),
    )
    stages = tensors(run(recipe, tmp_path))
    dense, data = part(stages["dense"], "model."), cases.make_data()
    replayed = recipe.train is not None and recipe.retrain.mode in ("weight_rewind", "lr_rewind")
    schedule: Training = recipe.train if replayed and recipe.train is not None else recipe.retrain
    rewind = part(stages["dense"], "rewind.")
    network = cases.mlp()
    network.load_state_dict(dense)
    guide = Teacher(network, Distill(alpha=0.8, temperature=2.0))
    trainings = {}
    for control in plan_controls(recipe):
        assert control.epochs is not None
        start = dense if control.before is None else part(stages[control.before], "model.")
        trainings[control.stage] = start, control.epochs, control.retrainings
    for planned in plan_rounds(recipe):
        assert planned.epochs is not None
        start = (
            dense
            if planned.restart
            else part(stages[f"round-0-{planned.number - 1:03d}"], "model.")
        )
        trainings[f"round-0-{planned.number:03d}"] = start, planned.epochs, planned.number
    for name, (start, epochs, number) in trainings.items():
        model, masks = cases.mlp(), part(stages[name], "mask.")
        model.load_state_dict(rewind if recipe.retrain.mode == "weight_rewind" else start)
        apply_masks_(model, masks)
        purpose = "retrain-1" if recipe.retrain.mode == "gradual" else f"retrain-{number}"
        train_(
            model,
            data,
            schedule,
            seed=0,
            name=purpose,
            masks=masks,
            start_epoch=epochs[0],
            stop_epoch=epochs[1],
            teacher=guide,
        )
        wanted = model.state_dict()
        assert all(
            torch.equal(value, wanted[key]) for key, value in part(stages[name], "model.").items()
        ), name
    plain = tensors(
        run(
            cases.recipe(
                0.5,
                0.8,
                independent=True,
                schedule={"name": "linear", "params": {"rounds": 2}},
                **MODES[mode],
            ),
            tmp_path / "plain",
        )
    )
    first = plan_controls(recipe)[0].stage
    assert not torch.equal(plain[first]["model.1.weight"], stages[first]["model.1.weight"])


def test_the_dense_control_learns_nothing_from_itself(tmp_path: Path) -> None:
    """With alpha = 1 and no weight decay the dense network is already at its teacher."""
    retrain = {
        "epochs": 2,
        "batch_size": 8,
        "optimizer": {"lr": 0.05, "weight_decay": 0},
        "distill": {"alpha": 1},
    }
    pipeline = run(cases.recipe(0.8, retrain=retrain), tmp_path)
    weights, _ = pretrained()
    for name, value in pipeline.controls[0].network().state_dict().items():
        torch.testing.assert_close(value, weights[name], atol=1e-5, rtol=1e-5)
    (done,) = pipeline.done
    images = pipeline.data.normalize(pipeline.data.fit.images)
    with torch.no_grad():
        wanted = F.log_softmax(pipeline.dense()(images), 1)
        distance = {
            name: float(
                F.kl_div(
                    F.log_softmax(model(images), 1), wanted, log_target=True, reduction="batchmean"
                )
            )
            for name, model in (
                ("pruned", untrained(pipeline, done.masks())),
                ("retrained", done.network()),
            )
        }
    assert distance["retrained"] < 0.5 * distance["pruned"]


def untrained(pipeline: Any, masks: dict[str, Tensor]) -> nn.Module:
    model = pipeline.dense()
    apply_masks_(model, masks)
    return model


def test_a_job_that_trains_learns_from_the_network_it_trained(tmp_path: Path) -> None:
    """Weight rewinding restarts from early weights; the teacher is the finished dense network, not
    these.
    """
    recipe = cases.recipe(0.5, retrain={"mode": "weight_rewind", "distill": True}, train=TRAIN)
    pipeline = make(recipe, tmp_path)
    teachers: list[Teacher | None] = []
    train = pipeline.trainer.train_

    def listening(*args: Any, teacher: Teacher | None = None, **fields: Any) -> None:
        teachers.append(teacher)
        train(*args, teacher=teacher, **fields)

    pipeline.trainer.train_ = listening  # type: ignore[method-assign]
    pipeline.run()
    assert teachers[0] is None, "the dense network has no teacher"
    assert len(teachers) == 3
    for teacher in teachers[1:]:
        assert teacher is not None
        assert same(teacher.network, pipeline.dense())


def test_progress_counts_the_teacher(tmp_path: Path) -> None:
    recipe = cases.recipe(0.5, retrain={"epochs": 2, "distill": True, **OPTIMIZER})
    pipeline = run(recipe, tmp_path)
    assert pipeline.counted == pipeline.costs.total
