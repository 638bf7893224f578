"""Small pipelines on random images, and a watcher that remembers its notifications."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruning.pipeline.pipeline import Networks, Pipeline
from pruning.schemas.recipe import Recipe
from pruning.schemas.training import Optimizer, Training
from pruning.storage.stages import Stages
from pruning.training.loop import Controls, train_
from tests.support import cases

State = dict[str, Tensor]
CPU = torch.device("cpu")
OPTIMIZER: dict[str, Any] = {"batch_size": 8, "optimizer": {"lr": 0.05}}
TRAIN: dict[str, Any] = {"epochs": 3, "rewind_epoch": 1, **OPTIMIZER}
MODES: dict[str, dict[str, Any]] = {
    "none": {"retrain": {"mode": "none"}},
    "fine_tune": {"retrain": {"mode": "fine_tune", "epochs": 2, **OPTIMIZER}},
    "lr_rewind": {"retrain": {"mode": "lr_rewind", "epochs": 3, "rewind_epoch": 1, **OPTIMIZER}},
    "weight_rewind": {"retrain": {"mode": "weight_rewind", "epochs": 2, **OPTIMIZER}},
    "trained lr_rewind": {"retrain": {"mode": "lr_rewind"}, "train": TRAIN},
    "trained weight_rewind": {"retrain": {"mode": "weight_rewind"}, "train": TRAIN},
    "trained fine_tune": {"retrain": {"mode": "fine_tune", **OPTIMIZER}, "train": TRAIN},
    "l1 weight_rewind": {
        "retrain": {"mode": "weight_rewind"},
        "train": TRAIN | {"penalty": {"l1": 0.02}},
    },
    "before_training": {"when": "before_training", "train": TRAIN},
    "gradual": {"retrain": {"mode": "gradual", "epochs": 6, **OPTIMIZER}},
    "distilled": {"retrain": {"mode": "fine_tune", "epochs": 2, "distill": True, **OPTIMIZER}},
}


class Listener:
    """Remembers the stages, progress and warnings it is notified of."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, str]] = []
        self.done: list[tuple[float, float]] = []
        self.warnings: list[str] = []

    def stage(self, stage: str, name: str) -> None:
        self.stages.append((stage, name))

    def progress(self, done: float, total: float) -> None:
        self.done.append((done, total))

    def warn(self, message: str) -> None:
        self.warnings.append(message)


class Counting(Pipeline):
    """A pipeline that sums up the units of work as they are done."""

    counted = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        advance = self.ledger.advance

        def count(units: int) -> None:
            self.counted += units
            advance(units)

        self.ledger.advance = count  # type: ignore[method-assign]


@cache
def pretrained() -> tuple[State, State]:
    """A network trained on the tiny data, and its weights after the first of four epochs."""
    model = cases.mlp()
    early: State = {}

    def keep(epoch: int) -> None:
        if epoch == 1:
            early.update({key: value.clone() for key, value in model.state_dict().items()})

    train_(
        model,
        cases.make_data(),
        Training(epochs=4, batch_size=8, optimizer=Optimizer(lr=0.05)),
        seed=9,
        name="given",
        controls=Controls(at_epoch=keep),
    )
    return dict(model.state_dict()), early


def make(
    recipe: Recipe, folder: Path, on_saved: Callable[[str, Path], None] = lambda name, path: None
) -> Counting:
    trained, early = pretrained()
    networks = Networks(
        cases.mlp,
        None if recipe.train is not None else trained,
        early if recipe.retrain.mode == "weight_rewind" and recipe.train is None else None,
    )
    return Counting(
        recipe=recipe,
        networks=networks,
        data=cases.make_data(),
        stages=Stages(folder, recipe.digest(), on_saved),
        watcher=Listener(),
        device=CPU,
        checkpoint_steps=4,
    )


def run(recipe: Recipe, folder: Path, **fields: Any) -> Counting:
    pipeline = make(recipe, folder, **fields)
    pipeline.run()
    return pipeline


def tensors(pipeline: Pipeline, *, partial: bool = False) -> dict[str, State]:
    """The tensors by name of every stage file, by stage."""
    by_stage = {}
    for path in sorted(pipeline.stages.folder.glob("*.safetensors")):
        name = path.name.split("-", 1)[1].removesuffix(".safetensors")
        if partial or not name.endswith(".partial"):
            saved = pipeline.stages.load(name)
            assert saved is not None
            by_stage[name] = saved[0]
    return by_stage


def part(state: State, prefix: str) -> State:
    return {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }


def gridded(mode: str, schedule: str, independent: bool) -> Recipe:
    params = (
        {"rounds": 2}
        if schedule in ("linear", "cubic")
        else {"fraction": 0.4}
        if schedule == "geometric"
        else {}
    )
    return cases.recipe(
        0.5,
        0.8,
        schedule={"name": schedule, "params": params},
        independent=independent,
        **MODES[mode],
    )
