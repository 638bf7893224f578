"""Rounds of channels and blocks that remove nothing are refused before the job runs."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from pruning.channels import coupling
from pruning.errors import BudgetError
from pruning.granularities import granularities
from pruning.networks.loading import load_model
from pruning.rounds.rehearsal import ROUNDS, rehearse
from pruning.types import Granularity, Selected, Selection
from tests.support import cases

CHANNELS: dict[str, Any] = {"criterion": {"name": "filter_norm"}}
BLOCKS: dict[str, Any] = {"granularity": {"name": "block", "params": {"rows": 2, "columns": 8}}}
TRAIN = {"epochs": 3, "rewind_epoch": 1}


def network() -> nn.Module:
    return load_model("mlp", hidden=[32, 16], channels=1, height=8, width=8, classes=10)


def tried(*sparsity: float, **fields: Any) -> list[str]:
    return rehearse(network(), cases.recipe(*sparsity, **fields), (1, 8, 8))


@pytest.mark.parametrize("granularity", [CHANNELS, BLOCKS], ids=["channel", "block"])
@pytest.mark.parametrize(
    "retrain",
    [{}, {"retrain": {"mode": "weight_rewind"}, "train": TRAIN}],
    ids=["fine_tune", "weight_rewind"],
)
def test_targets_that_reach_the_same_structure_are_refused(
    granularity: dict[str, Any], retrain: dict[str, Any]
) -> None:
    with pytest.raises(
        BudgetError,
        match=r"round 2 at sparsity 0\.502 would be retrained but removes nothing: "
        r"\d+ of 2720 weights remain before it and after",
    ) as caught:
        tried(0.501, 0.502, 0.503, **granularity, **retrain)
    assert caught.value.pointer == "/targets/sparsity"


@pytest.mark.parametrize("granularity", [CHANNELS, BLOCKS], ids=["channel", "block"])
def test_rounds_finer_than_a_channel_or_a_block_are_the_schedule_s(
    granularity: dict[str, Any],
) -> None:
    small = load_model("mlp", hidden=[8, 4], channels=1, height=4, width=4, classes=3)
    fine = {"name": "linear", "params": {"rounds": 30}}
    with pytest.raises(BudgetError, match="would be retrained but removes nothing") as caught:
        rehearse(small, cases.recipe(0.3, schedule=fine, **granularity), (1, 4, 4))
    assert caught.value.pointer == "/schedule"


@pytest.mark.parametrize("granularity", [CHANNELS, BLOCKS], ids=["channel", "block"])
@pytest.mark.parametrize(
    "fields",
    [
        {"retrain": {"mode": "none"}},
        {"when": "before_training", "train": TRAIN},
        {"independent": True},
        {"retrain": {"mode": "gradual", "epochs": 20}, "independent": True},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_rounds_that_cost_no_retraining_of_their_own_may_be_empty(
    granularity: dict[str, Any], fields: dict[str, Any]
) -> None:
    assert tried(0.5, 0.501, **granularity, **fields) == []


@pytest.mark.parametrize("granularity", [CHANNELS, BLOCKS], ids=["channel", "block"])
def test_rounds_coarse_enough_pass(granularity: dict[str, Any]) -> None:
    assert (
        tried(0.5, 0.7, schedule={"name": "linear", "params": {"rounds": 3}}, **granularity) == []
    )


def test_of_very_many_rounds_only_those_to_targets_are_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    densities: list[float] = []
    block = granularities.get("block")
    select = block.select

    def select_and_note(method: Granularity, selection: Selection) -> Selected:
        densities.append(selection.density)
        return select(method, selection)

    monkeypatch.setattr(block, "select", select_and_note)
    schedule = {"name": "linear", "params": {"rounds": ROUNDS}}
    assert tried(0.25, 0.75, schedule=schedule, **BLOCKS) == []
    assert densities == [0.75, 0.25]


def test_rounds_that_remove_something_with_other_scores_pass() -> None:
    """The choice of coupled channels decides whether the last small step to 0.9 removes any."""
    recipe = cases.recipe(
        0.5, 0.8, 0.9, schedule={"name": "geometric", "params": {"fraction": 0.2}}, **CHANNELS
    )
    assert rehearse(load_model("cifar_resnet", depth=20, channels=1), recipe, (1, 8, 8)) == []


@pytest.mark.parametrize("granularity", ["channel", "filter"])
def test_the_network_is_traced_once_for_all_rounds_and_draws(
    granularity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = []
    couple = coupling.couple_channels

    def count(*arguments: Any) -> Any:
        traces.append(arguments)
        return couple(*arguments)

    monkeypatch.setattr("pruning.channels.graph.couple_channels", count)
    criteria = [{"name": "filter_norm"}, {"name": "random"}]
    assert tried(0.3, 0.5, 0.7, criterion=criteria, granularity={"name": granularity}) == []
    assert len(traces) == 1
