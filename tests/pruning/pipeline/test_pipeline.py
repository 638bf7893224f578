"""Whole jobs on a tiny network: every mode, every interruption, every promise about what a round
starts from.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pruning.training.loop
from pruning.data.tensors import Split
from pruning.errors import BaselineMismatchError, BudgetError, ParameterError
from pruning.masks import apply_masks_, count_to_keep, find_prunable
from pruning.pipeline.pipeline import Networks, Pipeline
from pruning.rounds.plan import plan_rounds
from pruning.schedules import schedules
from pruning.schemas.criterion_labels import label_criteria
from pruning.schemas.recipe import Method, Recipe
from pruning.schemas.training import Optimizer, Train, Training
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
    make,
    part,
    pretrained,
    run,
    tensors,
)


class InterruptionError(Exception):
    """The process dies here."""


def same(first: dict[str, State], second: dict[str, State]) -> None:
    assert set(first) == set(second)
    for stage in first:
        assert set(first[stage]) == set(second[stage])
        for key in first[stage]:
            assert torch.equal(first[stage][key], second[stage][key]), f"{stage}: {key}"


GRID = [
    pytest.param(
        mode,
        schedule,
        independent,
        id=f"{mode}-{schedule}-{'independent' if independent else 'cascade'}",
    )
    for mode, schedule, independent in itertools.product(MODES, schedules.names(), (False, True))
    if independent or mode != "gradual"
]


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


@pytest.mark.parametrize(("mode", "schedule", "independent"), GRID)
def test_a_job_keeps_its_promises(
    tmp_path: Path, mode: str, schedule: str, independent: bool
) -> None:
    recipe = gridded(mode, schedule, independent)
    targets: list[float] = []
    pipeline = make(recipe, tmp_path / "whole")
    pipeline.target_done = lambda done: targets.append(done.target)  # type: ignore[arg-type]
    pipeline.run()

    planned = plan_rounds(recipe)
    assert targets == [0.5, 0.8]
    assert [(record.round, record.target) for record in pipeline.done] == [
        (plan.number, plan.target) for plan in planned
    ]
    previous: dict[str, Tensor] = {}
    for record, plan in zip(pipeline.done, planned, strict=True):
        masks, weights = record.masks(), find_prunable(record.network())
        total = sum(mask.numel() for mask in masks.values())
        assert sum(int(mask.sum()) for mask in masks.values()) == count_to_keep(total, plan.density)
        assert record.density == count_to_keep(total, plan.density) / total
        assert abs(record.sparsity - plan.sparsity) <= 0.5 / total + 1e-9
        assert all(not bool(weights[name].detach()[~mask].any()) for name, mask in masks.items())
        assert (record.retrained is not None) == plan.retrained
        if not plan.restart:
            assert all(not bool((mask & ~previous[name]).any()) for name, mask in masks.items())
        previous = masks

    watcher = pipeline.watcher
    assert isinstance(watcher, Listener)
    assert watcher.done[-1] == (pipeline.costs.total,) * 2
    assert all(later[0] >= earlier[0] for earlier, later in itertools.pairwise(watcher.done))
    assert pipeline.counted == pipeline.costs.total
    assert watcher.stages[0] == ("baseline", "dense")
    assert not list(pipeline.stages.folder.glob("*.partial*"))

    # Interrupted after each thing that it saves in turn, it ends with the same tensors.
    saved: set[str] = set()

    def die(name: str, path: Path) -> None:
        key = f"{name} {path.read_bytes()[-64:]!r}" if ".partial" in name else name
        if key not in saved:
            saved.add(key)
            raise InterruptionError(name)

    broken = make(recipe, tmp_path / "broken", die)
    for _ in range(200):
        try:
            broken.run()
            break
        except InterruptionError:
            broken = make(recipe, tmp_path / "broken", die)
    assert len(saved) >= len(planned) + 2
    same(tensors(broken), tensors(pipeline))
    assert isinstance(broken.watcher, Listener)
    assert broken.watcher.done[-1] == watcher.done[-1]
    assert all(later[0] >= earlier[0] for earlier, later in itertools.pairwise(broken.watcher.done))


@pytest.mark.parametrize("mode", MODES)
def test_one_interruption_anywhere_changes_nothing(tmp_path: Path, mode: str) -> None:
    recipe = gridded(mode, "targets_only", mode == "gradual")
    names: list[str] = []
    whole = tensors(run(recipe, tmp_path / "whole", on_saved=lambda name, path: names.append(name)))
    for k in range(len(names)):
        saved_names: list[str] = []

        def die(name: str, path: Path, saved_names: list[str] = saved_names, k: int = k) -> None:
            saved_names.append(name)
            if len(saved_names) == k + 1:
                raise InterruptionError(name)

        with pytest.raises(InterruptionError):
            run(recipe, tmp_path / str(k), on_saved=die)
        assert saved_names == names[: k + 1]
        again = run(recipe, tmp_path / str(k))
        same(tensors(again), whole)


def test_a_finished_job_is_not_done_again(tmp_path: Path) -> None:
    recipe = gridded("fine_tune", "targets_only", False)
    first = run(recipe, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    again = run(recipe, tmp_path)
    assert again.counted == 0
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert again.ledger.seconds == first.ledger.seconds
    assert again.watcher.done[-1] == first.watcher.done[-1]  # type: ignore[attr-defined]


def test_a_damaged_stage_is_done_again(tmp_path: Path) -> None:
    recipe = gridded("fine_tune", "targets_only", False)
    pipeline = run(recipe, tmp_path)
    whole = tensors(pipeline)
    path = pipeline.stages.path("round-0-001")
    path.write_bytes(path.read_bytes()[:-7])
    same(tensors(run(recipe, tmp_path)), whole)


def test_recipes_do_not_share_stages(tmp_path: Path) -> None:
    first = run(cases.recipe(0.5, retrain={"mode": "none"}), tmp_path)
    second = run(cases.recipe(0.6, retrain={"mode": "none"}), tmp_path)
    assert second.counted == second.costs.total
    assert first.done[0].sparsity != second.done[0].sparsity


# what a round starts from


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
        expected[5:] * 3
    )  # control and two rounds, each from epoch 1 to 3
    dense = part(stages["dense"], "model.")["1.weight"]
    first = part(stages["round-0-001"], "mask.")["1.weight"]
    second = part(stages["round-0-002"], "mask.")["1.weight"]
    after = part(stages["round-0-001"], "model.")["1.weight"]
    assert [steps[0][1], steps[10][1], steps[20][1]] == pytest.approx(
        [
            float(dense.double().sum()),
            float((dense * first).double().sum()),
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
        assert torch.equal(pipeline.control_measured.losses, pipeline.given_measured.losses)


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


# gradual pruning


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
    train_(control, data, recipe.retrain, seed=0, name="retrain-1")
    wanted = control.state_dict()
    assert all(
        torch.equal(value, wanted[key]) for key, value in part(stages["control"], "model.").items()
    )
    assert [record.retrain_epochs for record in pipeline.done] == [1, 2, 5] * 2
    assert pipeline.costs.retrain_epochs == 5


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
    control, pruned = pipeline.control().state_dict(), pipeline.done[-1].network().state_dict()
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


def test_independent_targets_start_from_the_dense_network(tmp_path: Path) -> None:
    recipe = gridded("fine_tune", "targets_only", True)
    stages = tensors(run(recipe, tmp_path))
    dense = part(stages["dense"], "model.")
    weights = torch.cat([dense[name].abs().flatten() for name in ("1.weight", "3.weight")])
    masks = part(stages["round-0-002"], "mask.")
    kept = torch.cat([masks["1.weight"].flatten(), masks["3.weight"].flatten()])
    assert float(weights[kept].min()) >= float(weights[~kept].max())


# refusals and corners


def test_a_network_at_chance_is_a_baseline_mismatch_each_time(tmp_path: Path) -> None:
    recipe = cases.recipe(0.5, retrain={"mode": "none"})
    model = cases.mlp()
    nn.init.zeros_(model.get_parameter("3.weight"))
    for _ in range(2):
        pipeline = Pipeline(
            recipe=recipe,
            networks=Networks(cases.mlp, dict(model.state_dict())),
            data=cases.make_data(),
            stages=Stages(tmp_path, recipe.digest()),
            watcher=Listener(),
            device=CPU,
        )
        with pytest.raises(
            BaselineMismatchError,
            match=r"wrong on 66\.7% of the test images, no better than chance",
        ):
            pipeline.run()
        assert pipeline.done == []


def test_a_network_better_than_chance_goes_on(tmp_path: Path) -> None:
    assert (
        run(gridded("none", "targets_only", False), tmp_path).given_measured.document().error.value
        < 0.5
    )


def test_excluded_weights_stay_dense(tmp_path: Path) -> None:
    recipe = cases.recipe(0.5, exclude=("3.weight",), retrain={"mode": "none"})
    pipeline = run(recipe, tmp_path)
    (done,) = pipeline.done
    assert list(done.masks()) == ["1.weight"]
    assert done.sparsity == 0.5
    assert torch.equal(done.network().get_parameter("3.weight"), pretrained()[0]["3.weight"])
    with pytest.raises(ParameterError, match=r"'nothing\.weight' is not a prunable weight"):
        run(cases.recipe(0.5, exclude=("nothing.weight",), retrain={"mode": "none"}), tmp_path)


def test_a_collapsed_layer_is_told_also_after_a_rerun(tmp_path: Path) -> None:
    weights, _ = pretrained()
    small = weights | {"3.weight": weights["3.weight"] * 1e-3, "3.bias": weights["3.bias"] * 1e-3}
    recipe = cases.recipe(0.5, retrain={"mode": "none"})
    for _ in range(2):
        listener = Listener()
        pipeline = Pipeline(
            recipe=recipe,
            networks=Networks(cases.mlp, small),
            data=cases.make_data(),
            stages=Stages(tmp_path, recipe.digest()),
            watcher=listener,
            device=CPU,
        )
        pipeline.run()
        collapses = [message for message in listener.warnings if "collapse" in message]
        assert collapses == ["magnitude, round 1: layer collapse: nothing remains of 3.weight"]
        assert [
            message for message in pipeline.ledger.warnings if "collapse" in message
        ] == collapses


def test_criteria_are_compared_on_the_same_dense_network(tmp_path: Path) -> None:
    recipe = cases.recipe(
        0.5, criterion=({"name": "magnitude"}, {"name": "random"}), **MODES["fine_tune"]
    )
    pipeline = run(recipe, tmp_path / "both")
    assert [(record.label, record.round) for record in pipeline.done] == [
        ("magnitude", 1),
        ("random", 1),
    ]
    alone = run(
        cases.recipe(0.5, criterion={"name": "random"}, **MODES["fine_tune"]), tmp_path / "alone"
    )
    both, single = tensors(pipeline)["round-1-001"], tensors(alone)["round-0-001"]
    assert all(torch.equal(both[key], single[key]) for key in both), (
        "a criterion's result depends on its company"
    )


def test_labels_are_unique() -> None:
    methods = tuple(Method(name=name, params={"p": i}) for i, name in enumerate(["a", "b", "a"]))
    assert label_criteria(cases.recipe(criterion=methods)) == ["a-p0", "b", "a-p2"]
    same = tuple(Method(name="a", params={"p": p}) for p in ("x y", "xy", "X/Y"))
    assert label_criteria(cases.recipe(criterion=same)) == ["a-xy-1", "a-xy-2", "a-xy-3"]


def test_seeds_change_what_is_random_and_nothing_else_does(tmp_path: Path) -> None:
    def masks(seed: int, folder: str) -> State:
        recipe = cases.recipe(
            0.5, criterion={"name": "random"}, retrain={"mode": "none"}, seed=seed
        )
        return run(recipe, tmp_path / folder).done[0].masks()

    torch.manual_seed(1)
    first = masks(0, "a")
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert all(torch.equal(mask, first[name]) for name, mask in masks(0, "b").items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not all(torch.equal(mask, first[name]) for name, mask in masks(1, "c").items())


def test_the_initialisation_follows_the_seed(tmp_path: Path) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3))

    def fresh(seed: int) -> Tensor:
        recipe = cases.recipe(0.5, train=TRAIN, retrain={"mode": "none"}, seed=seed)
        return (
            Pipeline(
                recipe=recipe,
                networks=Networks(build),
                data=cases.make_data(),
                stages=Stages(tmp_path, recipe.digest()),
                watcher=Listener(),
                device=CPU,
            )
            ._build_initial()
            .get_parameter("1.weight")
        )

    assert torch.equal(fresh(0), fresh(0))
    assert not torch.equal(fresh(0), fresh(1))


def test_a_training_of_the_job_gives_its_train_schedule(tmp_path: Path) -> None:
    recipe = gridded("trained fine_tune", "targets_only", False)
    pipeline = run(recipe, tmp_path)
    model = pipeline._build_initial()
    train_(model, cases.make_data(), Train(**TRAIN), seed=0, name="train")
    dense = pipeline.dense().state_dict()
    assert all(torch.equal(value, dense[key]) for key, value in model.state_dict().items())


# one criterion of several


def test_a_criterion_that_cannot_go_on_leaves_the_others(tmp_path: Path) -> None:
    """A single one of six hidden units remains: channels cannot make it sparser than 5 / 6."""
    criteria = [{"name": "filter_norm"}, {"name": "magnitude"}]
    recipe = cases.recipe(0.5, 0.95, criterion=criteria, retrain={"mode": "none"})
    for _ in range(2):  # a resumed job too
        pipeline = run(recipe, tmp_path)
        assert [record.id for record in pipeline.done if record.target] == [
            "filter_norm-0.5",
            "magnitude-0.5",
            "magnitude-0.95",
        ]
        (failure,) = pipeline.failures
        assert (failure.name, failure.code) == ("filter_norm", "impossible_budget")
        assert failure.message.startswith(
            "filter_norm, round 2: density 0.05 cannot be reached by removing channels"
        )
        assert pipeline.ledger.warnings[1:] == [
            f"{failure.message}; the criterion ends here, the others go on"
        ]


def test_scores_that_cannot_be_drawn_by_end_their_criterion_alone(tmp_path: Path) -> None:
    """GraSP's scores are of either sign, and sampling takes sensitivities."""
    recipe = cases.recipe(
        0.5,
        criterion=[{"name": "grasp"}, {"name": "magnitude"}],
        sparsifier={"name": "sample"},
        allocation={"name": "uniform"},
        retrain={"mode": "none"},
    )
    pipeline = run(recipe, tmp_path)
    assert [record.id for record in pipeline.done] == ["magnitude-0.5"]
    assert [(failure.name, failure.code) for failure in pipeline.failures] == [
        ("grasp", "invalid_parameter")
    ]


def test_a_job_of_which_every_criterion_fails_fails(tmp_path: Path) -> None:
    criteria = [{"name": "filter_norm"}, {"name": "filter_norm", "params": {"p": 2}}]
    for listed in (criteria, criteria[:1]):
        recipe = cases.recipe(0.5, 0.95, criterion=listed, retrain={"mode": "none"})
        with pytest.raises(
            BudgetError, match=r"filter_norm.*, round 2: density 0\.05 cannot be reached"
        ):
            run(recipe, tmp_path / str(len(listed)))


@pytest.mark.parametrize(("name", "warned"), [("obs", True), ("magnitude", False)])
def test_what_rewinding_undoes_is_told(tmp_path: Path, name: str, warned: bool) -> None:
    pipeline = run(
        cases.recipe(0.5, criterion={"name": name}, **MODES["trained weight_rewind"]), tmp_path
    )
    assert (
        any("rewinding the weights undoes" in warning for warning in pipeline.ledger.warnings)
        == warned
    )


def test_a_round_that_removes_nothing_is_told(tmp_path: Path) -> None:
    """Three of six hidden units remain for every target from 0.5 to 2 / 3."""
    pipeline = run(
        cases.recipe(0.45, 0.5, criterion={"name": "filter_norm"}, retrain={"mode": "none"}),
        tmp_path,
    )
    assert [record.density for record in pipeline.done] == [0.5, 0.5]
    (warning,) = pipeline.ledger.warnings[1:]
    assert warning.startswith(
        "filter_norm, round 2: nothing was removed: the density is 0.5 already"
    )
