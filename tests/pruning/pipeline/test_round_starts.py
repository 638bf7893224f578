"""What a round starts from: the weights, the learning rates and the masks, by mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pruning.training.loop
from pruning.errors import ParameterError
from pruning.masks import apply_masks_, find_prunable
from pruning.pipeline.pipeline import Networks, Pipeline
from pruning.schemas.training import Optimizer
from pruning.storage.stages import Stages
from pruning.training.loop import Controls, train_
from pruning.training.optimizer import make_optimizer
from tests.support import cases
from tests.support.pipelines import (
    CPU,
    MODES,
    TRAIN,
    Listener,
    State,
    gridded,
    part,
    pretrained,
    run,
    tensors,
)


def test_weight_rewinding_starts_from_the_kept_weights(tmp_path: Path) -> None:
    recipe = gridded("trained weight_rewind", "targets_only", False)
    assert recipe.train is not None
    pipeline = run(recipe, tmp_path)
    stages, data, kept = tensors(pipeline), cases.make_data(), dict[str, Tensor]()
    dense = pipeline._build_initial()

    def keep(epoch: int) -> None:
        if epoch == 1:
            kept.update({key: value.clone() for key, value in dense.state_dict().items()})

    train_(dense, data, recipe.train, seed=0, name="train", controls=Controls(at_epoch=keep))
    assert part(stages["dense"], "rewind.").keys() == kept.keys()
    assert all(
        torch.equal(value, kept[key]) for key, value in part(stages["dense"], "rewind.").items()
    )
    assert not torch.equal(kept["1.weight"], part(stages["dense"], "model.")["1.weight"])
    for stage, name in (
        ("control", "retrain-1"),
        ("round-0-001", "retrain-1"),
        ("round-0-002", "retrain-2"),
    ):
        model, masks = cases.mlp(), part(stages[stage], "mask.")
        model.load_state_dict(kept)
        apply_masks_(model, masks)
        train_(model, data, recipe.train, seed=0, name=name, masks=masks, start_epoch=1)
        assert all(
            torch.equal(value, model.state_dict()[key])
            for key, value in part(stages[stage], "model.").items()
        )


def test_given_rewind_weights_are_used(tmp_path: Path) -> None:
    recipe = gridded("weight_rewind", "targets_only", True)
    stages = tensors(run(recipe, tmp_path))
    _, early = pretrained()
    model, masks = cases.mlp(), part(stages["round-0-002"], "mask.")
    model.load_state_dict(early)
    train_(model, cases.make_data(), recipe.retrain, seed=0, name="retrain-2", masks=masks)
    weights = part(stages["round-0-002"], "model.")
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in weights.items())


def test_rewinding_without_weights_to_rewind_to_is_refused(tmp_path: Path) -> None:
    recipe = gridded("weight_rewind", "targets_only", False)
    with pytest.raises(ParameterError, match="weights to rewind to"):
        Pipeline(
            recipe=recipe,
            networks=Networks(cases.mlp, pretrained()[0]),
            data=cases.make_data(),
            stages=Stages(tmp_path, recipe.digest()),
            watcher=Listener(),
            device=CPU,
        )


@pytest.mark.parametrize("mode", ["lr_rewind", "trained lr_rewind"])
def test_lr_rewinding_replays_the_learning_rates_and_keeps_the_weights(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = {"name": "linear"}
    fields = MODES[mode]
    key = "train" if "train" in fields else "retrain"
    recipe = cases.recipe(0.5, 0.8, **fields | {key: fields[key] | {"lr_schedule": schedule}})
    steps: list[tuple[float, float]] = []

    def listening(model: nn.Module, spec: Optimizer) -> torch.optim.Optimizer:
        optimizer = make_optimizer(model, spec)
        weights = next(model.parameters())
        optimizer.register_step_pre_hook(
            lambda *_: steps.append(
                (optimizer.param_groups[0]["lr"], float(weights.detach().double().sum()))
            )
        )
        return optimizer

    monkeypatch.setattr(pruning.training.loop, "make_optimizer", listening)
    pipeline = run(recipe, tmp_path)
    stages = tensors(pipeline)
    expected = [0.05 * (1 - (epoch + step / 5) / 3) for epoch in (0, 1, 2) for step in range(5)]
    rates = [rate for rate, _ in steps]
    if key == "train":
        assert rates[:15] == pytest.approx(expected)
        rates, steps = rates[15:], steps[15:]
    assert rates == pytest.approx(
        expected[5:] * 4
    )  # two rounds, each after its control, each from epoch 1 to 3
    dense = part(stages["dense"], "model.")["1.weight"]
    first = part(stages["round-0-001"], "mask.")["1.weight"]
    second = part(stages["round-0-002"], "mask.")["1.weight"]
    after = part(stages["round-0-001"], "model.")["1.weight"]
    control = part(stages["control"], "model.")["1.weight"]
    assert [steps[place][1] for place in (0, 10, 20, 30)] == pytest.approx(
        [
            float(dense.double().sum()),
            float((dense * first).double().sum()),
            float(control.double().sum()),
            float((after * second).double().sum()),
        ]
    )


def test_pruning_before_training_prunes_the_initialisation(tmp_path: Path) -> None:
    recipe = gridded("before_training", "linear", False)
    assert recipe.train is not None
    pipeline = run(recipe, tmp_path)
    stages = tensors(pipeline)
    initial = part(stages["dense"], "initial.")
    fresh = pipeline._build_network().state_dict()
    assert all(torch.equal(value, fresh[key]) for key, value in initial.items())
    weights = torch.cat([initial[name].abs().flatten() for name in ("1.weight", "3.weight")])
    names = ["round-0-001", "round-0-002", "round-0-003", "round-0-004"]
    for name, record in zip(names, pipeline.done, strict=True):
        masks = part(stages[name], "mask.")
        kept = torch.cat([masks["1.weight"].flatten(), masks["3.weight"].flatten()])
        assert float(weights[kept].min()) >= float(weights[~kept].max()), (
            "magnitude of the initialisation decides"
        )
        untrained = part(stages[name], "untrained.")
        for key in ("1.weight", "3.weight"):
            assert torch.equal(untrained[key], initial[key] * masks[key])
        if record.target is None:
            assert all(
                torch.equal(value, untrained[key])
                for key, value in part(stages[name], "model.").items()
            )
        else:
            model = cases.mlp()
            model.load_state_dict(untrained)
            train_(model, cases.make_data(), recipe.train, seed=0, name="train", masks=masks)
            trained = part(stages[name], "model.")
            assert all(
                torch.equal(value, model.state_dict()[key]) for key, value in trained.items()
            )


def test_the_control_is_the_dense_network_where_nothing_is_retrained(tmp_path: Path) -> None:
    for mode in ("none", "before_training"):
        pipeline = run(gridded(mode, "targets_only", False), tmp_path)
        stages = tensors(pipeline)
        dense, control = part(stages["dense"], "model."), part(stages["control"], "model.")
        assert all(torch.equal(value, dense[key]) for key, value in control.items())
        assert torch.equal(pipeline.controls[0].measured.losses, pipeline.given_measured.losses)


def test_fine_tuning_goes_on_from_the_round_before(tmp_path: Path) -> None:
    recipe = gridded("fine_tune", "targets_only", False)
    stages = tensors(run(recipe, tmp_path))
    for name, before, number in (
        ("control", "dense", 1),
        ("round-0-001", "dense", 1),
        ("round-0-002", "round-0-001", 2),
    ):
        model, masks = cases.mlp(), part(stages[name], "mask.")
        model.load_state_dict(part(stages[before], "model."))
        apply_masks_(model, masks)
        train_(
            model, cases.make_data(), recipe.retrain, seed=0, name=f"retrain-{number}", masks=masks
        )
        weights = part(stages[name], "model.")
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in weights.items())


def ranked(weights: State, masks: State, keep: int) -> State:
    """The `keep` largest of the weights that remain, over all layers together, by sorting."""
    alive = [
        (-abs(value), name, index)
        for name in masks
        for index, (value, kept) in enumerate(
            zip(weights[name].flatten().tolist(), masks[name].flatten().tolist(), strict=True)
        )
        if kept
    ]
    chosen = {(name, index) for _, name, index in sorted(alive)[:keep]}
    return {
        name: torch.tensor([(name, index) in chosen for index in range(mask.numel())]).reshape(
            mask.shape
        )
        for name, mask in masks.items()
    }


@pytest.mark.parametrize("mode", ["weight_rewind", "lr_rewind"])
def test_iterative_magnitude_pruning_is_the_published_loop(tmp_path: Path, mode: str) -> None:
    """Train; prune the 20 % smallest of what remains, of all layers; rewind the weights or the
    learning rate; repeat.
    """
    schedule: dict[str, Any] = {"schedule": {"name": "geometric", "params": {"fraction": 0.2}}}
    train = TRAIN | {"lr_schedule": {"name": "cosine"}}
    recipe = cases.recipe(0.36, 0.7, retrain={"mode": mode}, train=train, **schedule)
    assert recipe.train is not None
    pipeline = run(recipe, tmp_path)
    stages, data, rewind = tensors(pipeline), cases.make_data(), dict[str, Tensor]()
    model = pipeline._build_initial()

    def keep(epoch: int) -> None:
        if epoch == 1:
            rewind.update({key: value.clone() for key, value in model.state_dict().items()})

    train_(model, data, recipe.train, seed=0, name="train", controls=Controls(at_epoch=keep))
    masks = {
        name: torch.ones_like(weight, dtype=torch.bool)
        for name, weight in find_prunable(model).items()
    }
    total = remain = sum(mask.numel() for mask in masks.values())
    assert total == 114
    survivors = []
    densities = [0.8, 0.64, 0.512, 0.4096, 0.32768, 0.3]
    for number, density in enumerate(densities, 1):
        masks = ranked(dict(model.state_dict()), masks, total - round((1 - density) * total))
        remain, before = sum(int(mask.sum()) for mask in masks.values()), remain
        survivors.append((before, remain))
        if mode == "weight_rewind":
            model.load_state_dict(rewind)
        apply_masks_(model, masks)
        train_(
            model, data, recipe.train, seed=0, name=f"retrain-{number}", masks=masks, start_epoch=1
        )
        name, wanted = f"round-0-{number:03d}", model.state_dict()
        assert all(
            torch.equal(mask, masks[key]) for key, mask in part(stages[name], "mask.").items()
        ), name
        assert all(
            torch.equal(value, wanted[key]) for key, value in part(stages[name], "model.").items()
        ), name
    assert [record.target for record in pipeline.done] == [None, 0.36, None, None, None, 0.7]
    assert pipeline.done[-1].retrain_epochs == (2 if mode == "weight_rewind" else 6 * 2), (
        "since the weights were rewound"
    )
    for before, after in survivors[:-1]:
        assert abs((before - after) - 0.2 * before) <= 1
    assert 0 < survivors[-1][0] - survivors[-1][1] < 0.2 * survivors[-1][0], (
        "the last of a stretch ends at the target"
    )
    assert all(after < before for before, after in survivors)


def test_independent_targets_start_from_the_dense_network(tmp_path: Path) -> None:
    recipe = gridded("fine_tune", "targets_only", True)
    stages = tensors(run(recipe, tmp_path))
    dense = part(stages["dense"], "model.")
    weights = torch.cat([dense[name].abs().flatten() for name in ("1.weight", "3.weight")])
    masks = part(stages["round-0-002"], "mask.")
    kept = torch.cat([masks["1.weight"].flatten(), masks["3.weight"].flatten()])
    assert float(weights[kept].min()) >= float(weights[~kept].max())
