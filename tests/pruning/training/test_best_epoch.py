"""The weights of the best validation epoch: which they are, resumed trainings, and their cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from pruning.measurement.measure import measure_errors
from pruning.schemas.recipe import Retrain
from pruning.schemas.training import Training
from pruning.training.loop import Controls, train_
from tests.support import cases
from tests.support.pipelines import run
from tests.support.trainings import SGD, Memory, State, colour_net, rgb, same

BEST = Training(
    epochs=5,
    batch_size=6,
    optimizer=SGD.model_copy(update={"lr": 0.3}),
    augment="none",
    keep="best",
)


def test_it_is_the_first_with_the_least_validation_error() -> None:
    model, data = colour_net(), rgb()
    rng = torch.Generator().manual_seed(0)
    fit, val = (torch.randint(3, (len(split),), generator=rng) for split in (data.fit, data.val))
    data = replace(
        data, fit=replace(data.fit, labels=fit), val=replace(data.val, labels=val)
    )  # labels at random: no epoch is like another
    states: list[State] = []

    def copy_state(epoch: int) -> None:
        states.append({name: value.clone() for name, value in model.state_dict().items()})

    looked: list[int] = []
    train_(
        model,
        data,
        BEST,
        seed=0,
        name="t",
        controls=Controls(at_epoch=copy_state, look=looked.append),
    )
    last = colour_net()
    train_(last, data, BEST.model_copy(update={"keep": "last"}), seed=0, name="t")
    ends = [*states[1:], last.state_dict()]
    errors = []
    for state in ends:
        network = colour_net().eval()
        network.load_state_dict(state)
        errors.append(float(measure_errors(network, data, data.val).double().mean()))
    best = ends[errors.index(min(errors))]
    assert errors.index(min(errors)) < 4, "the last epoch is no case of its own"
    assert all(torch.equal(best[name], value) for name, value in model.state_dict().items())
    assert looked == [len(data.val)] * 5


def test_a_resumed_training_ends_in_the_same_bytes() -> None:
    memory, whole = Memory(), colour_net()
    train_(whole, rgb(), BEST, seed=0, name="t", controls=Controls(saver=memory, every_steps=1))
    for state in memory.saved[::2]:
        again, looked = colour_net(), [0]

        def look(images: int, looked: list[int] = looked) -> None:
            looked[0] += images

        train_(
            again, rgb(), BEST, seed=0, name="t", controls=Controls(saver=Memory(state), look=look)
        )
        assert same(again, whole)
        assert looked == [5 * len(rgb().val)]


@pytest.mark.parametrize("mode", ["fine_tune", "lr_rewind"])
def test_its_cost_is_counted(mode: str, tmp_path: Path) -> None:
    train = {"epochs": 2, "batch_size": 20, "keep": "best"}
    retrain = {"mode": mode, **(train if mode == "fine_tune" else {})}
    pipeline = run(cases.recipe(0.5, train=train, retrain=retrain), tmp_path)
    assert pipeline.counted == pipeline.costs.total


def test_a_gradual_run_ends_where_it_ends() -> None:
    with pytest.raises(ValidationError, match="before the last pruning"):
        Retrain(mode="gradual", epochs=4, keep="best")
