"""Jobs that search for the sparsest network within a limit on the error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pruning.analysis.job_record import RoundRecord, find_control
from pruning.pipeline.pipeline import Networks, Pipeline
from pruning.pipeline.searching import Searching
from pruning.rounds.error_search import FIRST, STEPS, count_most_tried
from pruning.schemas.recipe import Recipe, Targets
from pruning.storage.stages import Stages
from tests.support import cases
from tests.support.pipelines import CPU, MODES, Listener, pretrained, tensors

LIMIT = 0.1


def make_recipe(limits: Any = LIMIT, mode: str = "fine_tune", **fields: Any) -> Recipe:
    return Recipe(targets=Targets(max_error_increase=limits), **(MODES[mode] | fields))


def make(recipe: Recipe, folder: Path, kind: type[Pipeline] = Searching, **fields: Any) -> Pipeline:
    trained, early = pretrained()
    return kind(
        recipe=recipe,
        networks=Networks(
            cases.mlp,
            None if recipe.train is not None else trained,
            early if recipe.retrain.mode == "weight_rewind" and recipe.train is None else None,
        ),
        data=cases.make_data(val=60),
        stages=Stages(folder, recipe.digest(), *fields.values()),
        watcher=Listener(),
        device=CPU,
        checkpoint_steps=4,
    )


def measure_increase(pipeline: Pipeline, number: int) -> float:
    (row,) = (row for row in pipeline.done if row.round == number)
    control = find_control(pipeline.controls, row)
    assert control is not None
    wrong = row.measured.val_wrong.double().mean() - control.measured.val_wrong.double().mean()
    return float(wrong)


@pytest.mark.parametrize("mode", ["fine_tune", "weight_rewind", "none", "before_training"])
def test_it_ends_at_a_network_within_the_limit_beside_one_beyond(tmp_path: Path, mode: str) -> None:
    finished: list[str] = []
    pipeline = make(make_recipe(mode=mode), tmp_path)
    pipeline.target_done = lambda record: finished.append(record.id)
    pipeline.run()
    (chosen,) = (row for row in pipeline.done if row.target is not None)
    assert finished == [chosen.id] == [f"magnitude-max_error_increase-{LIMIT}"]
    assert all(row.is_tried for row in pipeline.done)
    steps = [row.round for row in pipeline.done]
    assert steps == sorted(steps)
    assert FIRST in steps
    assert len(steps) <= count_most_tried(1) <= 0.4 * STEPS
    assert chosen.finding is not None
    assert chosen.finding.tried == len(steps)
    assert chosen.finding.increase == pytest.approx(measure_increase(pipeline, chosen.round))
    assert chosen.finding.increase <= LIMIT
    if chosen.round < STEPS:
        assert chosen.finding.next_sparsity == pytest.approx(1 - 0.85 ** (chosen.round + 1))
        # The next step is beyond the limit, or cannot be pruned: it is no round then.
        assert chosen.round + 1 not in steps or (
            measure_increase(pipeline, chosen.round + 1) > LIMIT
        )
    listener = pipeline.watcher
    assert isinstance(listener, Listener)
    assert listener.done[-1] == (pipeline.costs.total,) * 2


def test_it_ends_within_a_step_of_the_sweep_for_less_training(tmp_path: Path) -> None:
    recipe = make_recipe()
    searched = make(recipe, tmp_path / "searched")
    searched.run()
    (chosen,) = (row for row in searched.done if row.target is not None)
    swept = make(recipe, tmp_path / "swept", Pipeline)
    swept.run()
    assert [row.round for row in swept.done] == list(range(1, STEPS + 1))
    within = [row.round for row in swept.done if measure_increase(swept, row.round) <= LIMIT]
    assert abs(chosen.round - max(within)) <= 1
    assert len(searched.done) <= 0.4 * len(swept.done)
    by_step = {row.round: row for row in swept.done}
    for row in searched.done:
        assert torch.equal(row.measured.val_wrong, by_step[row.round].measured.val_wrong)


def test_a_job_that_is_resumed_tries_the_same_networks(tmp_path: Path) -> None:
    recipe = make_recipe([LIMIT, 0.3])
    whole = make(recipe, tmp_path / "whole")
    whole.run()

    class InterruptionError(Exception):
        pass

    saved: set[str] = set()

    def die(name: str, path: Path) -> None:
        if ".partial" not in name and name not in saved:
            saved.add(name)
            raise InterruptionError(name)

    for _ in range(100):
        broken = make(recipe, tmp_path / "broken", on_saved=die)
        try:
            broken.run()
            break
        except InterruptionError:
            continue
    first, second = tensors(whole), tensors(broken)
    assert set(first) == set(second)
    for stage, state in first.items():
        assert all(torch.equal(value, second[stage][key]) for key, value in state.items())
    assert [(row.round, row.target, row.finding) for row in broken.done] == [
        (row.round, row.target, row.finding) for row in whole.done
    ]


class Worse(Searching):
    """A search among networks that each lose two points more."""

    def _measure_increase(self, record: RoundRecord) -> float:
        return max(0.0, super()._measure_increase(record)) + 0.02


def test_a_limit_that_no_network_keeps_fails_with_the_least_that_was_tried(tmp_path: Path) -> None:
    pipeline = make(make_recipe([0.01, 0.9]), tmp_path / "both", Worse)
    pipeline.run()
    ids = [row.id for row in pipeline.done if row.target is not None]
    (failure,) = pipeline.failures
    assert failure.name == "magnitude-max_error_increase-0.01"
    assert "not reachable: no network that was tried" in failure.message
    assert ids == ["magnitude-max_error_increase-0.9"]
    alone = make(make_recipe(0.01), tmp_path / "alone", Worse)
    alone.run()
    (failure,) = alone.failures
    assert "the least that was tried, 15 % sparsity, lost 2.00 pp" in failure.message
    assert failure.message in alone.ledger.warnings
    assert len(alone.done) <= count_most_tried(1)
    assert [row.target for row in alone.done] == [None] * len(alone.done)


def test_two_limits_that_end_at_one_network_are_one_checkpoint(tmp_path: Path) -> None:
    pipeline = make(make_recipe([0.98, 0.99], mode="none"), tmp_path)
    pipeline.run()
    assert [row.id for row in pipeline.done if row.target is not None] == [
        "magnitude-max_error_increase-0.98"
    ]
    assert any("listed under the lower limit" in text for text in pipeline.ledger.warnings)


def mislabel_(pipeline: Pipeline) -> None:
    """Give some validation images another label, so that the dense network has an error."""
    pipeline.data.val.labels[:9] = (pipeline.data.val.labels[:9] + 1) % 3


def test_the_law_of_what_was_tried_leads_the_next_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forecasts: list[tuple[int, list[float] | None]] = []
    forecast = Searching._forecast

    def remember(self: Searching, label: str) -> list[float] | None:
        own = sum(row.label == label for row in self.done)
        forecasts.append((own, forecast(self, label)))
        return forecasts[-1][1]

    monkeypatch.setattr(Searching, "_forecast", remember)
    alone = make(make_recipe(criterion={"name": "random"}), tmp_path / "alone")
    mislabel_(alone)
    alone.run()
    assert forecasts[0] == (0, None)
    rises = [rise for own, rise in forecasts if own >= 3 and rise is not None]
    assert rises
    assert all(len(rise) == STEPS and rise == sorted(rise) for rise in rises)
    forecasts.clear()
    both = make(make_recipe(criterion=[{"name": "random"}, {"name": "magnitude"}]), tmp_path / "b")
    mislabel_(both)
    both.run()
    # The second criterion begins with the law of the first.
    assert [rise is not None for own, rise in forecasts if own == 0] == [False, True]


def test_every_criterion_has_its_search_and_schedules_lead_to_each_network(tmp_path: Path) -> None:
    recipe = make_recipe(
        criterion=[{"name": "magnitude"}, {"name": "random"}],
        schedule={"name": "geometric", "params": {"fraction": 0.5}},
    )
    pipeline = make(recipe, tmp_path)
    pipeline.run()
    labels = [row.label for row in pipeline.done]
    assert labels == sorted(labels)
    for label in ("magnitude", "random"):
        rows = [row for row in pipeline.done if row.label == label]
        assert sum(row.is_tried for row in rows) <= count_most_tried(1)
        assert len(rows) > sum(row.is_tried for row in rows)
        assert sum(row.target is not None for row in rows) == 1
    for row in pipeline.done:
        control = find_control(pipeline.controls, row)
        assert not row.is_tried or (control is not None)
        assert control is None or control.retrain_epochs == row.retrain_epochs
    names = [control.name for control in pipeline.controls]
    assert len(set(names)) == len(names)
