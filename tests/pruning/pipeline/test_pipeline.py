"""Whole jobs on a tiny network: every mode, every interruption, refusals and seeds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning.errors import BaselineMismatchError, EvidenceError, ParameterError
from pruning.masks import count_to_keep, find_prunable
from pruning.pipeline.pipeline import Networks, Pipeline
from pruning.rounds.plan import plan_rounds
from pruning.schedules import schedules
from pruning.schemas.criterion_labels import label_criteria
from pruning.schemas.recipe import Method
from pruning.schemas.training import Train
from pruning.storage.stages import Stages
from pruning.training.loop import train_
from tests.support import cases
from tests.support.pipelines import (
    CPU,
    MODES,
    TRAIN,
    Listener,
    State,
    gridded,
    make,
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


def list_grid() -> Iterator[Any]:
    """Every mode in cascades and independently, with the schedules in turn: a schedule only says
    which rounds there are, so that each meets half of the modes in each way.
    """
    names = schedules.names()
    for number, mode in enumerate(MODES):
        for independent in (False, True):
            if independent or mode != "gradual":
                schedule = names[(number + 2 * independent) % len(names)]
                way = "independent" if independent else "cascade"
                # The rounds of a cascade need one another, so that an interruption can harm more.
                marks = [pytest.mark.slow] if independent and mode != "gradual" else []
                yield pytest.param(
                    mode, schedule, independent, id=f"{mode}-{schedule}-{way}", marks=marks
                )


@pytest.mark.parametrize(("mode", "schedule", "independent"), list(list_grid()))
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


@pytest.mark.parametrize(
    "mode",
    [
        "weight_rewind",
        *(
            pytest.param(mode, marks=pytest.mark.slow)
            for mode in ("gradual", "trained lr_rewind", "before_training", "distilled")
        ),
    ],
)
def test_one_interruption_anywhere_changes_nothing(tmp_path: Path, mode: str) -> None:
    """At the first and the last save of every stage; of each training that can be interrupted one
    mode, for all modes are, again and again, above.
    """
    recipe = gridded(mode, "targets_only", mode == "gradual")
    names: list[str] = []
    whole = tensors(run(recipe, tmp_path / "whole", on_saved=lambda name, path: names.append(name)))
    last = {name: k for k, name in enumerate(names)}
    for k in sorted({names.index(name) for name in last} | {*last.values()}):
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


@pytest.mark.parametrize(
    "granularity", [None, {"name": "block", "params": {"columns": 2}}, {"name": "channel"}]
)
def test_a_job_with_overrides_goes_on_to_the_same_bytes(
    tmp_path: Path, granularity: dict[str, Any] | None
) -> None:
    recipe = cases.recipe(
        *((0.5,) if granularity == {"name": "channel"} else (0.45, 0.55)),
        schedule={"name": "linear", "params": {"rounds": 2}},
        overrides={"1": 0.5},
        granularity=granularity,
        **MODES["fine_tune"],
    )
    names: list[str] = []
    whole = run(recipe, tmp_path / "whole", on_saved=lambda name, path: names.append(name))
    saved_names: list[str] = []
    for record in whole.done:
        if record.target is not None:
            mask = record.masks()["1.weight"]
            kept = mask.any(1) if granularity == {"name": "channel"} else mask
            assert int(kept.sum()) == kept.numel() // 2

    def die(name: str, path: Path) -> None:
        saved_names.append(name)
        if len(saved_names) == len(names) // 2 + 1:
            raise InterruptionError(name)

    with pytest.raises(InterruptionError):
        run(recipe, tmp_path / "again", on_saved=die)
    same(tensors(run(recipe, tmp_path / "again")), tensors(whole))


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
    again = run(recipe, tmp_path)
    same(tensors(again), whole)
    warning = "the stage file round-0-001 is damaged, so what it held is computed again"
    assert warning in again.watcher.warnings  # type: ignore[attr-defined]
    assert warning in again.ledger.warnings


def test_recipes_do_not_share_stages(tmp_path: Path) -> None:
    first = run(cases.recipe(0.5, retrain={"mode": "none"}), tmp_path)
    second = run(cases.recipe(0.6, retrain={"mode": "none"}), tmp_path)
    assert second.counted == second.costs.total
    assert first.done[0].sparsity != second.done[0].sparsity


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
            match=r"wrong on 66\.7 % of the test images, no better than chance",
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
    reading = ({"name": "loss_model"}, {"name": "approximation"})
    alone = run(
        cases.recipe(0.5, criterion={"name": "random"}, evaluations=reading, **MODES["fine_tune"]),
        tmp_path / "alone",
    )
    both, single = tensors(pipeline)["round-1-001"], tensors(alone)["round-0-001"]
    assert all(torch.equal(both[key], single[key]) for key in both), (
        "a criterion's result depends on its company"
    )


def test_losses_on_training_images_are_measured_where_an_evaluation_reads_them(
    tmp_path: Path,
) -> None:
    for names, measured in ((("accuracy",), False), (("accuracy", "loss_model"), True)):
        recipe = cases.recipe(
            0.5, evaluations=tuple({"name": name} for name in names), **MODES["fine_tune"]
        )
        pipeline = run(recipe, tmp_path / "-".join(names))
        saved = [name for name in tensors(pipeline)["round-0-001"] if name.startswith("loss")]
        assert sorted(saved) == (["loss.after", "loss.before"] if measured else [])
        if not measured:
            with pytest.raises(EvidenceError, match="reads_losses"):
                pipeline.done[0].losses()


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
