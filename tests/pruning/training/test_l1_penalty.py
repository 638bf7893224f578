"""Training with the L1 penalty against the proximal step and the conditions of optimality."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.data.tensors import Data
from pruning.schemas.training import LrSchedule, Optimizer, Penalty, Train
from pruning.seeding import seeded
from pruning.training.loop import train_
from tests.support import cases, oracles
from tests.support.trainings import colour_net, rgb, same


def l1_train(
    model: nn.Module, l1: float, *, epochs: int = 1, momentum: float = 0.9, nesterov: bool = False
) -> nn.Module:
    """Train in float64 on nine images at once, with the penalty, at a constant learning rate."""
    training = Train(
        epochs=epochs,
        batch_size=64,
        penalty=Penalty(l1=l1),
        lr_schedule=LrSchedule(name="constant"),
        optimizer=Optimizer(lr=0.2, momentum=momentum, nesterov=nesterov, weight_decay=0.01),
    )
    train_(model.double(), Float64(cases.make_data(fit=9)), training, seed=0, name="t")
    return model


class Float64(Data):
    """Images in double precision."""

    def __init__(self, data: Data) -> None:
        super().__init__(**vars(data))

    def normalize(self, images: Tensor) -> Tensor:
        return super().normalize(images).double()


def loss_gradients(model: nn.Module) -> dict[str, Tensor]:
    """The gradients of the mean cross-entropy over all images plus half the weight decay times the
    squared norm.
    """
    data = Float64(cases.make_data(fit=9))
    model.zero_grad()
    F.cross_entropy(model(data.normalize(data.fit.images)), data.fit.labels).backward()
    return {
        name: oracles.gradient(parameter) + 0.01 * parameter.detach()
        for name, parameter in model.named_parameters()
    }


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_one_step_with_the_penalty_is_the_proximal_one(momentum: float) -> None:
    before, after = cases.mlp().double(), l1_train(cases.mlp(), 0.3, momentum=momentum)
    threshold = 0.3 * 0.2 / (1 - momentum)
    zeros = 0
    for name, slope in loss_gradients(before).items():
        expected = before.get_parameter(name).detach() - 0.2 * slope
        if name.endswith("weight"):
            expected = torch.tensor(
                [
                    math.copysign(max(abs(w) - threshold, 0.0), w)
                    for w in expected.flatten().tolist()
                ],
                dtype=torch.float64,
            ).reshape(expected.shape)
        weight = after.get_parameter(name).detach()
        torch.testing.assert_close(weight, expected, atol=1e-15, rtol=1e-13)
        zeros += int((weight == 0).sum())
        assert not weight[weight == 0].signbit().any()
    assert zeros


@pytest.mark.slow
@pytest.mark.parametrize(
    ("momentum", "nesterov"), [(0.0, False), (0.5, False), (0.9, False), (0.9, True)]
)
def test_training_rests_where_the_penalised_loss_does(momentum: float, nesterov: bool) -> None:
    """Optimality: the slope is -l1 sign(w) of what is left and within l1 of what is zero (within a
    fiftieth). A step with momentum goes 1 / (1 - momentum) times as far.
    """
    l1 = 0.02
    with seeded(0):
        initial = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    epochs = max(300, round(1500 * (1 - momentum)))
    model = l1_train(initial, l1, epochs=epochs, momentum=momentum, nesterov=nesterov)
    slopes, weight = loss_gradients(model), model.get_parameter("1.weight").detach()
    zero = weight == 0
    assert 0.2 < zero.double().mean() < 0.9
    torch.testing.assert_close(
        slopes["1.weight"][~zero], -l1 * weight[~zero].sign(), atol=l1 / 50, rtol=0
    )
    assert slopes["1.weight"][zero].abs().max() <= l1 * 1.02
    assert slopes["1.bias"].abs().max() < l1 / 50


def test_the_penalty_leaves_biases_batchnorm_frozen_and_excluded_weights() -> None:
    strong = Train(batch_size=4, optimizer=Optimizer(lr=1e-4), penalty=Penalty(l1=1e6))
    model = colour_net()
    train_(model, rgb(), strong, seed=0, name="t", exclude=("4.weight",))
    assert [name for name, value in model.named_parameters() if not value.any()] == ["0.weight"]
    model = cases.mlp()
    model.get_parameter("1.weight").requires_grad_(False)
    train_(model, cases.make_data(), strong, seed=0, name="t")
    assert [name for name, value in model.named_parameters() if not value.any()] == ["3.weight"]


def test_a_penalty_of_zero_is_none() -> None:
    data, plain, zero = cases.make_data(fit=14), cases.mlp(), cases.mlp()
    train_(plain, data, Train(epochs=2, batch_size=4), seed=0, name="t")
    train_(zero, data, Train(epochs=2, batch_size=4, penalty=Penalty(l1=0)), seed=0, name="t")
    assert same(plain, zero)
