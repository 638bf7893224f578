"""The trial of two precisions: what it measures, and that it chooses as it says."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from pruning.data.tensors import Data
from pruning.measurement.measure import measure_errors
from pruning.schemas.training import LrSchedule, Optimizer, Training
from pruning.training import precision as precision_module
from pruning.training.loop import train_
from pruning.training.precision import (
    SEEDS,
    SPEEDUP,
    PrecisionTrial,
    count_trial_steps,
    try_precisions,
)
from tests.support import cases

TRAINING = Training(epochs=3, batch_size=8, optimizer=Optimizer(lr=0.05), augment="none")


@pytest.fixture(autouse=True)
def accept_any_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial runs to its end, whatever the machine multiplies fastest."""
    monkeypatch.setattr(precision_module, "SPEEDUP", 0.0)


@pytest.fixture
def data() -> Data:
    return cases.make_data(fit=60, val=30)


def make_trial(fp32: torch.Tensor, bf16: torch.Tensor, speedup: float = 2.0) -> PrecisionTrial:
    """A trial with these errors."""
    seconds = torch.ones(2, SEEDS, dtype=torch.float64)
    seconds[0] *= speedup
    return PrecisionTrial(seconds, torch.stack([fp32, bf16]))


def test_the_model_stays_and_both_rows_are_trainings_of_so_many_steps(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[tuple[str, int, str]] = []

    def note(network: Any, images: Data, schedule: Training, **rest: Any) -> None:
        taken.append((schedule.precision, len(images.fit), rest["name"]))
        train_(network, images, schedule, **rest)

    monkeypatch.setattr(precision_module, "train_", note)
    model = cases.mlp()
    before = copy.deepcopy(model.state_dict())
    trial = try_precisions(model, data, TRAINING, seed=3, steps=4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert sorted(taken) == sorted(
        (precision, 32, f"precision-{number}")
        for precision in ("fp32", "bf16")
        for number in range(SEEDS)
    )
    assert trial.errors.shape == trial.seconds.shape == (2, SEEDS)
    assert (trial.seconds > 0).all()


def test_errors_are_those_of_the_networks_on_validation_images(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[str, Any]] = []

    def keep(network: Any, images: Data, schedule: Training, **rest: Any) -> None:
        train_(network, images, schedule, **rest)
        trained.append((schedule.precision, copy.deepcopy(network)))

    monkeypatch.setattr(precision_module, "train_", keep)
    schedule = TRAINING.model_copy(update={"lr_schedule": LrSchedule(name="cosine")})
    trial = try_precisions(cases.mlp(), data, schedule, seed=3, steps=4)
    for row, precision in enumerate(("fp32", "bf16")):
        expected = [
            float(measure_errors(network, data, data.val).double().mean())
            for used, network in trained
            if used == precision
        ]
        assert trial.errors[row].tolist() == pytest.approx(expected)


def test_a_training_that_diverges_never_chooses_bf16(data: Data) -> None:
    steep = TRAINING.model_copy(update={"optimizer": Optimizer(lr=100.0)})
    model = cases.mlp()
    for parameter in model.parameters():
        parameter.data *= 1e18
    trial = try_precisions(model, data, steep, seed=0, steps=4)
    assert not trial.errors.isfinite().all()
    assert trial.precision == "fp32"
    assert "diverged" in PrecisionTrial(torch.full((2, SEEDS), 1.0), trial.errors).describe() or (
        trial.speedup < SPEEDUP
    )


def test_a_slow_precision_is_given_up_after_two_seeds(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision_module, "SPEEDUP", 1e9)
    trial = try_precisions(cases.mlp(), data, TRAINING, seed=0, steps=4)
    assert trial.errors.isfinite().all(0).tolist() == [True, True, False, False, False]
    assert trial.precision == "fp32"
    assert "is the least that pays" in trial.describe()


def test_equal_precisions_are_mostly_accepted_and_harm_is_mostly_refused() -> None:
    """Under the null that both have the same errors bf16 is refused in one of ten trials or so; an
    increase of three standard deviations of a seed is refused in 95 of 100 at least.
    """
    rng = torch.Generator().manual_seed(0)
    accepted, harmed = 0, 0
    for _ in range(2000):
        errors = 0.2 + 0.01 * torch.randn(2, SEEDS, generator=rng, dtype=torch.float64)
        accepted += make_trial(errors[0], errors[1]).precision == "bf16"
        harmed += make_trial(errors[0], errors[1] + 0.03).precision == "bf16"
    assert accepted >= 0.85 * 2000
    assert harmed <= 0.05 * 2000


def test_the_limit_is_that_of_the_t_interval() -> None:
    errors = torch.tensor([0.10, 0.12, 0.11, 0.13, 0.14], dtype=torch.float64)
    trial = make_trial(errors, errors + 0.0197)
    deviation = float(errors.var()) ** 0.5
    assert trial.limit == pytest.approx(0.12 + 2.7764451 * deviation / 5**0.5)
    assert trial.precision == "fp32"
    assert make_trial(errors, errors + 0.0196).precision == "bf16"


@pytest.mark.parametrize(("speedup", "chosen"), [(2.0, "bf16"), (1.1, "fp32")])
def test_the_speed_decides_as_the_sentence_says(
    speedup: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision_module, "SPEEDUP", SPEEDUP)
    errors = torch.full((SEEDS,), 0.25, dtype=torch.float64)
    trial = make_trial(errors, errors, speedup)
    assert trial.precision == chosen
    assert trial.describe().startswith(
        f"retraining computes in {chosen}: bf16 is {speedup:.2f} times as fast"
    )


def test_the_steps_of_a_trial_are_few_beside_those_of_the_job() -> None:
    for steps in (0, 50, 159, 160, 1000, 4000, 10**5):
        trial = count_trial_steps(steps) * SEEDS * 2
        assert trial <= steps / 4
        assert (trial > 0) == (steps >= 160)
