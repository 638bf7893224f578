"""Training: the loop against a hand-made one, resuming, masks, and schedules in pieces."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.data.tensors import Data
from pruning.masks import apply_masks_
from pruning.schemas.training import LrSchedule, Optimizer, Penalty, Train, Training
from pruning.seeding import generator
from pruning.training.loop import Controls, count_steps_per_epoch, train_
from tests.support import cases, oracles
from tests.support.trainings import SGD, Memory, colour_net, rgb, same

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
