"""Learning rates of every schedule, and the constants of the optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import overload

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pruning.training.loop
from pruning.schemas.training import LrSchedule, Optimizer, Training
from pruning.training.loop import train_
from pruning.training.optimizer import learning_rate_factor, make_optimizer
from tests.support import cases, oracles


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
