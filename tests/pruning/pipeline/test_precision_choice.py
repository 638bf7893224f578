"""The precision of a job: chosen once, kept where the job goes on, and that of an equal job."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning.pipeline import precision_choice
from pruning.pipeline.pipeline import Pipeline
from pruning.schemas.recipe import Recipe
from pruning.storage.tensor_cache import TensorCache
from pruning.training.precision import SEEDS, PrecisionTrial
from tests.support import cases, pipelines

RETRAIN: dict[str, Any] = {"mode": "fine_tune", "epochs": 20, **pipelines.OPTIMIZER}
BFLOAT16 = [torch.bfloat16, torch.float32]


@dataclass
class Machine:
    """The types that a machine multiplies, and the trials that ran on it."""

    dtypes: list[torch.dtype] = field(default_factory=lambda: list(BFLOAT16))
    speedup: float = 2.0
    steps: list[int] = field(default_factory=list)

    def try_precisions(self, *args: Any, steps: int, **named: Any) -> PrecisionTrial:
        self.steps.append(steps)
        seconds = torch.ones(2, SEEDS, dtype=torch.float64)
        seconds[0] *= self.speedup
        return PrecisionTrial(seconds, torch.full((2, SEEDS), 0.2, dtype=torch.float64))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine on which a trial pays for the smallest network."""
    made = Machine()
    monkeypatch.setattr(precision_choice, "LEAST_MULTIPLY_ADDS", 1)
    monkeypatch.setattr(precision_choice, "choose_dtypes", lambda device: made.dtypes)
    monkeypatch.setattr(precision_choice, "try_precisions", made.try_precisions)
    return made


def make_recipe(precision: str = "auto", **fields: Any) -> Recipe:
    retrain = RETRAIN | {"precision": precision}
    return cases.recipe(0.5, 0.8, **{"retrain": retrain, **fields})


def get_weights(pipeline: Pipeline) -> dict[str, pipelines.State]:
    """The tensors of all stages but the trial's."""
    return {
        name: tensors
        for name, tensors in pipelines.tensors(pipeline).items()
        if name != precision_choice.STAGE
    }


def assert_equal_weights(first: Pipeline, second: Pipeline) -> None:
    ours, others = get_weights(first), get_weights(second)
    assert ours.keys() == others.keys()
    for name, tensors in ours.items():
        assert all(torch.equal(value, others[name][key]) for key, value in tensors.items()), name


@pytest.mark.parametrize("chosen", ["bf16", "fp32"])
def test_a_job_trains_as_one_that_asks_for_the_chosen_precision(
    chosen: str, machine: Machine, tmp_path: Path
) -> None:
    machine.speedup = {"bf16": 2.0, "fp32": 1.1}[chosen]
    ours = pipelines.run(make_recipe(), tmp_path / "auto")
    assert len(machine.steps) == 1
    description = ours.precision.describe()
    assert description is not None
    assert f"retraining computes in {chosen}" in description
    assert_equal_weights(ours, pipelines.run(make_recipe(chosen), tmp_path / chosen))
    assert len(machine.steps) == 1, "a recipe that names its precision needs no trial"


def test_a_device_without_bfloat16_trains_in_fp32_and_says_why(
    machine: Machine, tmp_path: Path
) -> None:
    machine.dtypes = [torch.float32]
    ours = pipelines.run(make_recipe(), tmp_path / "auto")
    assert machine.steps == []
    assert "no instructions for bfloat16" in str(ours.precision.describe())
    assert_equal_weights(ours, pipelines.run(make_recipe("fp32"), tmp_path / "fp32"))


class KilledError(Exception):
    """The job ends here."""


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_a_job_that_goes_on_elsewhere_stays_in_its_precision(
    has_bfloat16: bool, machine: Machine, tmp_path: Path
) -> None:
    machine.dtypes = BFLOAT16 if has_bfloat16 else [torch.float32]
    undisturbed = pipelines.run(make_recipe(), tmp_path / "undisturbed")

    def kill(name: str, path: Path) -> None:
        if name.endswith("round-0-001.safetensors"):
            raise KilledError

    with pytest.raises(KilledError):
        pipelines.run(make_recipe(), tmp_path / "killed", on_saved=kill)
    machine.dtypes = [torch.float32] if has_bfloat16 else BFLOAT16
    trials = len(machine.steps)
    resumed = pipelines.run(make_recipe(), tmp_path / "killed")
    assert len(machine.steps) == trials
    assert resumed.precision.describe() == undisturbed.precision.describe()
    assert_equal_weights(resumed, undisturbed)


def test_a_later_job_on_the_same_network_needs_no_trial(machine: Machine, tmp_path: Path) -> None:
    cache = TensorCache(tmp_path / "cache", 10**6)
    described = []
    for folder in ("first", "second"):
        pipeline = pipelines.make(make_recipe(), tmp_path / folder)
        pipeline.precision.cache = cache
        pipeline.run()
        described.append(pipeline.precision.describe())
    assert len(machine.steps) == 1
    assert described[0] == described[1]
    other = pipelines.make(
        make_recipe(retrain=RETRAIN | {"optimizer": {"lr": 0.04}}), tmp_path / "other"
    )
    other.precision.cache = cache
    other.run()
    assert len(machine.steps) == 2, "another learning rate is another trial"


def test_the_same_network_on_other_data_is_tried_again(machine: Machine, tmp_path: Path) -> None:
    """The report tells the errors of the trial: they are to be those of the job's own images."""
    cache = TensorCache(tmp_path / "cache", 10**6)
    for number in range(2):
        pipeline = pipelines.make(make_recipe(), tmp_path / str(number))
        pipeline.precision.cache = cache
        pipeline.precision.data = cases.make_data(seed=number)
        pipeline.run()
    assert len(machine.steps) == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"retrain": {"mode": "none"}},
        {"retrain": RETRAIN | {"mode": "weight_rewind"}},
        {"retrain": RETRAIN | {"epochs": 2}},
        pipelines.MODES["before_training"],
    ],
    ids=["no retraining", "rewound", "too short", "before training"],
)
def test_a_job_without_a_trial_computes_in_fp32(
    fields: dict[str, Any], machine: Machine, tmp_path: Path
) -> None:
    ours = pipelines.run(cases.recipe(0.5, 0.8, **fields), tmp_path)
    assert machine.steps == []
    assert ours.precision.describe() is None
    assert ours.precision.choose() == "fp32"
    assert not ours.stages.path(precision_choice.STAGE).exists()


def test_a_small_network_needs_no_trial(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(precision_choice, "LEAST_MULTIPLY_ADDS", 10**9)
    pipelines.run(make_recipe(), tmp_path)
    assert machine.steps == []
