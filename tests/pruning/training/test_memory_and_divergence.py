"""Trainings that run out of memory or diverge."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pruning.errors import DivergenceError, OutOfMemoryError
from pruning.schemas.training import Optimizer, Training
from pruning.training.loop import Controls, train_
from tests.support import cases
from tests.support.trainings import SGD, Cramped, Memory, same


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
@pytest.mark.parametrize(("most", "micro"), [(5, [4]), (3, [4, 2]), (1, [4, 2, 1])])
def test_out_of_memory_accumulates_to_the_same_gradients(
    most: int, micro: list[int], error: type[Exception]
) -> None:
    data, training = cases.make_data(fit=22), Training(epochs=2, batch_size=8, optimizer=SGD)
    whole, cramped, warnings = cases.mlp(), Cramped(cases.mlp(), most, error), list[str]()
    train_(whole, data, training, seed=0, name="t")
    train_(cramped, data, training, seed=0, name="t", controls=Controls(warn=warnings.append))
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(cramped.inner.state_dict()[name], weight, atol=1e-6, rtol=1e-5)
    assert [
        int(message.split("micro-batches of ")[1].split(";")[0]) for message in warnings
    ] == micro
    assert all(
        message.startswith("out of memory: gradients are accumulated") for message in warnings
    )


def test_a_resumed_training_remembers_the_micro_batch() -> None:
    data, training, saver = (
        cases.make_data(fit=22),
        Training(epochs=2, batch_size=8, optimizer=SGD),
        Memory(),
    )
    whole = Cramped(cases.mlp(), 3)
    train_(whole, data, training, seed=0, name="t", controls=Controls(saver=saver, every_steps=1))
    for state in saver.saved:
        assert state[1]["micro_batch"] == 2
        again, warnings = Cramped(cases.mlp(), 3), list[str]()
        train_(
            again,
            data,
            training,
            seed=0,
            name="t",
            controls=Controls(saver=Memory(state), warn=warnings.append),
        )
        assert same(again, whole)
        assert [message.split(";")[0].rsplit(" ", 1)[1] for message in warnings] == ["2"]


def test_out_of_memory_with_one_image_fails_as_such() -> None:
    with pytest.raises(OutOfMemoryError, match="not even one image"):
        train_(Cramped(cases.mlp(), 0), cases.make_data(), Training(batch_size=8), seed=0, name="t")


def test_another_runtime_error_is_not_taken_for_memory() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        train_(cases.mlp(inputs=17), cases.make_data(), Training(batch_size=8), seed=0, name="t")


@pytest.mark.parametrize("every_steps", [1, 200])
def test_an_absurd_learning_rate_is_a_divergence(every_steps: int) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3))
    saver = Memory()
    with pytest.raises(DivergenceError, match="a smaller learning rate may help"):
        train_(
            model,
            cases.make_data(),
            Training(epochs=20, batch_size=8, optimizer=Optimizer(lr=100)),
            seed=0,
            name="t",
            controls=Controls(saver=saver, every_steps=every_steps),
        )
    assert all(
        torch.isfinite(value).all()
        for tensors, meta in saver.saved[:1]
        for value in tensors.values()
    )


def test_weights_that_overflow_in_the_very_last_step_are_a_divergence() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2), nn.Linear(2, 3))
    with torch.no_grad():
        model.get_parameter("1.weight").fill_(1e-3)
        model.get_parameter("2.weight").copy_(
            torch.tensor([[1.0, 1.0], [-1.0, 1.0], [0.0, -1.0]]) * 1e37
        )
    data = cases.make_data(fit=8)
    logits = model(data.normalize(data.fit.images))
    assert torch.isfinite(F.cross_entropy(logits, data.fit.labels))
    with pytest.raises(DivergenceError, match="a smaller learning rate may help"):
        train_(model, data, Training(batch_size=8, optimizer=Optimizer(lr=100)), seed=0, name="t")
