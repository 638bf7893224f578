"""Training: the loop against a hand-made one, resuming, masks, learning rates, memory,
divergence.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, overload

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import pruning.training.loop
from pruning.data.tensors import Data
from pruning.errors import DivergenceError, OutOfMemoryError
from pruning.masks import apply_masks_
from pruning.schemas.training import LrSchedule, Optimizer, Penalty, Train, Training
from pruning.seeding import generator
from pruning.training.loop import Controls, count_steps_per_epoch, train_
from pruning.training.optimizer import learning_rate_factor, make_optimizer
from tests.support import cases, oracles
from tests.support.trainings import SGD, Cramped, Memory, same


def rgb() -> Data:
    return cases.make_data(fit=14, shape=(3, 8, 8))


def colour_net() -> nn.Module:
    return cases.conv_net(channels=3, features=256)


L1: dict[str, Any] = {"optimizer": SGD, "penalty": Penalty(l1=0.02)}

RUNS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Data], dict[str, Any], bool]] = {
    "mlp-sgd": (cases.mlp, lambda: cases.make_data(fit=14), {"optimizer": SGD}, False),
    "mlp-plain-sgd": (
        cases.mlp,
        lambda: cases.make_data(fit=14),
        {"optimizer": Optimizer(momentum=0)},
        False,
    ),
    "mlp-adamw-masked": (
        cases.mlp,
        lambda: cases.make_data(fit=13),
        {"optimizer": Optimizer(name="adamw")},
        True,
    ),
    "conv-nesterov-masked": (
        colour_net,
        rgb,
        {
            "optimizer": Optimizer(lr=0.05, nesterov=True),
            "augment": "crop_flip",
            "lr_schedule": LrSchedule(name="cosine", warmup_epochs=0.5),
        },
        True,
    ),
    "conv-adamw": (
        colour_net,
        rgb,
        {
            "optimizer": Optimizer(name="adamw", lr=0.01),
            "augment": "crop",
            "lr_schedule": LrSchedule(name="step", milestones=(1,)),
        },
        False,
    ),
    "conv-bf16": (colour_net, rgb, {"optimizer": SGD, "precision": "bf16"}, True),
    "mlp-l1": (cases.mlp, lambda: cases.make_data(fit=14), L1, False),
    "conv-l1-masked": (
        colour_net,
        rgb,
        L1 | {"augment": "crop", "lr_schedule": LrSchedule(warmup_epochs=0.5)},
        True,
    ),
}


@pytest.mark.parametrize("run", RUNS)
def test_resuming_at_any_saved_step_ends_in_the_same_bytes(run: str) -> None:
    build, make, fields, masked = RUNS[run]
    data, training = (
        make(),
        (Train if "penalty" in fields else Training)(epochs=2, batch_size=4, **fields),
    )
    model, saver, total = build(), Memory(), [0]
    masks = cases.half_masks(model) if masked else None

    def count(images: int) -> None:
        total[0] += images

    train_(
        model,
        data,
        training,
        seed=3,
        name="t",
        masks=masks,
        controls=Controls(saver=saver, every_steps=1, advance=count),
    )
    assert len(saver.saved) == 2 * count_steps_per_epoch(len(data.fit), 4)
    images, whole = total[0], model
    undisturbed = build()
    train_(undisturbed, data, training, seed=3, name="t", masks=masks)
    assert same(whole, undisturbed), "saving disturbs the training"
    for state in saver.saved:
        again, total[0] = build(), 0
        torch.manual_seed(len(state))  # no global state may matter
        train_(
            again,
            data,
            training,
            seed=3,
            name="t",
            masks=masks,
            controls=Controls(saver=Memory(state), advance=count),
        )
        assert same(again, whole), f"resumed from {state[1]}"
        assert total[0] == images, f"progress after resuming from {state[1]}"


@pytest.mark.parametrize("every_steps", [1, 2, 3, 5, 100])
def test_states_are_kept_every_so_many_steps(every_steps: int) -> None:
    saver = Memory()
    train_(
        cases.mlp(),
        cases.make_data(fit=12),
        Training(epochs=2, batch_size=4),
        seed=0,
        name="t",
        controls=Controls(saver=saver, every_steps=every_steps),
    )
    steps = [meta["epoch"] * 3 + meta["step"] for _, meta in saver.saved]
    assert steps == list(range(every_steps, 7, every_steps))


@pytest.mark.parametrize("masked", [False, True])
def test_the_loop_is_the_textbook_one(masked: bool) -> None:
    data = cases.make_data(fit=11)
    training = Training(
        epochs=3, batch_size=4, optimizer=SGD, lr_schedule=LrSchedule(name="linear")
    )
    model, expected = cases.mlp(), cases.mlp()
    masks = cases.half_masks(model) if masked else {}
    train_(model, data, training, seed=5, name="t", masks=masks)

    images, labels = data.normalize(data.fit.images), data.fit.labels
    optimizer = torch.optim.SGD(expected.parameters(), lr=SGD.lr, momentum=0.9, weight_decay=1e-4)
    apply_masks_(expected, masks)
    for epoch in range(3):
        order = torch.randperm(11, generator=generator(5, "t", "order", epoch))
        for step, index in enumerate([order[:4], order[4:8], order[8:]]):
            optimizer.param_groups[0]["lr"] = SGD.lr * (1 - (epoch + step / 3) / 3)
            optimizer.zero_grad()
            F.cross_entropy(expected(images[index]), labels[index]).backward()
            optimizer.step()
            apply_masks_(expected, masks)
    for name, weight in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], weight, atol=1e-6, rtol=1e-6)


def test_seed_and_name_decide_the_order() -> None:
    def trained(seed: int, name: str) -> nn.Module:
        model = cases.mlp()
        train_(model, cases.make_data(), Training(batch_size=8), seed=seed, name=name)
        return model

    state = torch.get_rng_state()
    assert same(trained(0, "a"), trained(0, "a"))
    assert not same(trained(0, "a"), trained(1, "a"))
    assert not same(trained(0, "a"), trained(0, "b"))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "optimizer", [SGD, Optimizer(nesterov=True), Optimizer(name="adamw", weight_decay=0.1)]
)
def test_masked_weights_end_as_positive_zeros(optimizer: Optimizer) -> None:
    model = colour_net()
    masks = cases.half_masks(model)
    train_(
        model,
        rgb(),
        Training(epochs=2, batch_size=4, optimizer=optimizer),
        seed=0,
        name="t",
        masks=masks,
    )
    for name, mask in masks.items():
        pruned = model.get_parameter(name).detach()[~mask]
        assert not pruned.any()
        assert not pruned.signbit().any()
        assert model.get_parameter(name).detach()[mask].all()


def test_training_ends_in_eval_mode_and_plain_layout() -> None:
    model = colour_net()
    train_(model, rgb(), Training(batch_size=4), seed=0, name="t")
    assert not any(oracles.module_modes(model))
    assert all(parameter.is_contiguous() for parameter in model.parameters())


def test_frozen_parameters_do_not_move() -> None:
    model = cases.mlp()
    model.get_parameter("1.weight").requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    train_(model, cases.make_data(), Training(batch_size=8), seed=0, name="t")
    assert [
        key for key, value in model.state_dict().items() if torch.equal(value, before[key])
    ] == ["1.weight"]


# learning rates


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(["constant", "cosine", "linear", "step"]),
    epochs=st.integers(1, 30),
    at=st.floats(0, 1),
    warmup=st.sampled_from([0.0, 0.5, 2.0]),
    gamma=st.floats(0.05, 0.9),
)
def test_lr_factor_is_the_documented_one(
    name: str, epochs: int, at: float, warmup: float, gamma: float
) -> None:
    milestones = (1.0, 2.5) if name == "step" else ()
    gamma = gamma if name == "step" else 0.1
    schedule = LrSchedule(name=name, milestones=milestones, gamma=gamma, warmup_epochs=warmup)
    expected = oracles.lr_factor(name, at * epochs, epochs, milestones, gamma, warmup)
    assert math.isclose(
        learning_rate_factor(schedule, at * epochs, epochs), expected, rel_tol=1e-12, abs_tol=1e-15
    )


def learning_rates(
    monkeypatch: pytest.MonkeyPatch, training: Training, start: int, images: int
) -> list[float]:
    """The learning rate at every step of a training."""
    rates: list[float] = []

    class Listening(torch.optim.SGD):
        @overload
        def step(self, closure: None = None) -> None: ...
        @overload
        def step(self, closure: Callable[[], float]) -> float: ...
        def step(self, closure: Callable[[], float] | None = None) -> float | None:
            rates.append(self.param_groups[0]["lr"])
            return None

    monkeypatch.setattr(
        pruning.training.loop,
        "make_optimizer",
        lambda model, spec: Listening(model.parameters(), lr=1),
    )
    train_(cases.mlp(), cases.make_data(fit=images), training, seed=0, name="t", start_epoch=start)
    return rates


def test_a_milestone_takes_effect_at_its_very_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(
        epochs=4,
        batch_size=4,
        optimizer=Optimizer(lr=1),
        lr_schedule=LrSchedule(name="step", milestones=(1, 2.5), gamma=0.5),
    )
    assert learning_rates(monkeypatch, training, 0, 16) == [1] * 4 + [0.5] * 6 + [0.25] * 6


@pytest.mark.parametrize("name", ["constant", "cosine", "linear"])
def test_a_later_start_replays_the_rest_of_the_schedule(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    training = Training(
        epochs=5,
        batch_size=4,
        optimizer=Optimizer(lr=0.3),
        lr_schedule=LrSchedule(name=name, warmup_epochs=1.5),
    )
    whole = learning_rates(monkeypatch, training, 0, 12)
    assert len(whole) == 15
    assert learning_rates(monkeypatch, training, 3, 12) == whole[9:]


@pytest.mark.parametrize(
    ("images", "batch", "steps"),
    [
        (1, 4, 1),
        (2, 4, 1),
        (4, 4, 1),
        (5, 4, 1),
        (6, 4, 2),
        (8, 4, 2),
        (9, 4, 2),
        (3, 1, 3),
        (1, 1, 1),
        (2, 1, 2),
    ],
)
def test_a_last_batch_of_one_image_is_left_out(images: int, batch: int, steps: int) -> None:
    assert count_steps_per_epoch(images, batch) == steps
    advances: list[int] = []
    train_(
        cases.mlp(),
        cases.make_data(fit=images),
        Training(batch_size=batch),
        seed=0,
        name="t",
        controls=Controls(advance=advances.append),
    )
    assert len(advances) == steps
    assert sum(advances) == (images if steps * batch >= images else steps * batch)


def test_epochs_are_announced_before_their_first_step() -> None:
    model, epochs = cases.mlp(), list[tuple[int, Tensor]]()
    first = model.state_dict()["1.weight"].clone()
    train_(
        model,
        cases.make_data(),
        Training(epochs=3, batch_size=8),
        seed=0,
        name="t",
        start_epoch=1,
        controls=Controls(
            at_epoch=lambda epoch: epochs.append((epoch, model.state_dict()["1.weight"].clone()))
        ),
    )
    assert [epoch for epoch, _ in epochs] == [1, 2]
    assert torch.equal(epochs[0][1], first)
    assert not torch.equal(epochs[1][1], first)


SPLITS = [(0, 5), (0, 1, 5), (0, 2, 3, 5), (0, 1, 2, 3, 4, 5)]


@pytest.mark.parametrize("ends", SPLITS)
def test_a_schedule_in_pieces_is_the_whole_schedule(ends: tuple[int, ...]) -> None:
    """Without momentum nothing is lost between the pieces: the same bytes."""
    data = cases.make_data(fit=14)
    training = Training(
        epochs=5,
        batch_size=4,
        optimizer=Optimizer(lr=0.05, momentum=0),
        lr_schedule=LrSchedule(name="cosine", warmup_epochs=1.5),
    )
    whole, pieces, epochs = cases.mlp(), cases.mlp(), list[int]()
    masks = cases.half_masks(whole)
    train_(whole, data, training, seed=0, name="t", masks=masks)
    for start, stop in itertools.pairwise(ends):
        train_(
            pieces,
            data,
            training,
            seed=0,
            name="t",
            masks=masks,
            start_epoch=start,
            stop_epoch=stop,
            controls=Controls(at_epoch=epochs.append),
        )
    assert same(pieces, whole)
    assert epochs == list(range(5))


def test_momentum_starts_anew_with_every_piece() -> None:
    data, training = cases.make_data(fit=14), Training(epochs=2, batch_size=4, optimizer=SGD)
    whole, pieces = cases.mlp(), cases.mlp()
    train_(whole, data, training, seed=0, name="t")
    train_(pieces, data, training, seed=0, name="t", stop_epoch=1)
    train_(pieces, data, training, seed=0, name="t", start_epoch=1)
    assert not same(pieces, whole)


def test_resuming_inside_a_piece_gives_the_same_bytes() -> None:
    data, training, saver = (
        cases.make_data(fit=14),
        Training(epochs=5, batch_size=4, optimizer=SGD),
        Memory(),
    )
    model, images = cases.mlp(), [0]

    def count(number: int) -> None:
        images[0] += number

    train_(
        model,
        data,
        training,
        seed=0,
        name="t",
        start_epoch=1,
        stop_epoch=3,
        controls=Controls(saver=saver, every_steps=1, advance=count),
    )
    assert images[0] == 2 * 14
    assert [(meta["epoch"], meta["step"]) for _, meta in saver.saved] == [
        (e, s) for e in (1, 2) for s in (1, 2, 3, 4)
    ]
    for saved in saver.saved:
        again, images[0] = cases.mlp(), 0
        train_(
            again,
            data,
            training,
            seed=0,
            name="t",
            start_epoch=1,
            stop_epoch=3,
            controls=Controls(saver=Memory(saved), advance=count),
        )
        assert same(again, model)
        assert images[0] == 2 * 14


def test_optimizers_get_their_constants() -> None:
    sgd = make_optimizer(
        cases.mlp(), Optimizer(lr=0.2, momentum=0.5, weight_decay=0.01, nesterov=True)
    )
    assert {key: sgd.defaults[key] for key in ("lr", "momentum", "weight_decay", "nesterov")} == {
        "lr": 0.2,
        "momentum": 0.5,
        "weight_decay": 0.01,
        "nesterov": True,
    }
    adamw = make_optimizer(
        cases.mlp(), Optimizer(name="adamw", lr=0.2, betas=(0.8, 0.9), weight_decay=0.01)
    )
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.defaults["betas"] == (0.8, 0.9)


# the L1 penalty


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


@pytest.mark.parametrize(
    ("momentum", "nesterov"), [(0.0, False), (0.5, False), (0.9, False), (0.9, True)]
)
def test_training_rests_where_the_penalised_loss_does(momentum: float, nesterov: bool) -> None:
    """Optimality: the slope is -l1 sign(w) of what is left and within l1 of what is zero (within a
    fiftieth).
    """
    l1 = 0.02
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        initial = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    model = l1_train(initial, l1, epochs=1500, momentum=momentum, nesterov=nesterov)
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


# memory and divergence


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
