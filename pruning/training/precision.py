"""The precision of retraining: bfloat16 where it is faster here and does no harm, else float32."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

import torch
from scipy.special import stdtrit
from torch import Tensor, nn

from pruning.data.tensors import Data
from pruning.errors import DivergenceError
from pruning.measurement.measure import measure_errors
from pruning.schemas.training import LrSchedule, Training
from pruning.seeding import generator
from pruning.training.loop import Teacher, train_

SEEDS = 5
"""The trainings of a trial in each precision."""
SPEEDUP = 1.2
"""The least speed of bfloat16 over that of fp32."""
IMAGES = 500
"""The most validation images on which the trained networks are compared."""
LEAST_STEPS, MOST_STEPS = 4, 50
"""The steps of each training of a trial."""
LEAST_SHARE = 4
"""A trial takes at most one step for every so many steps of the job."""
LEAST_MULTIPLY_ADDS = 10**9
"""The multiply-adds of a batch's forward pass below which a step is not made of them."""
PRECISIONS: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")


@dataclass(frozen=True)
class PrecisionTrial:
    """The measurements of short trainings in both precisions from the same weights.

    `seconds` and `errors` are float64 (2, seeds), fp32 in the first row: the time of a training and
    the validation error after it. They are NaN for seeds that were not needed.

    >>> seconds = torch.tensor([[3.0, 2.0, 2.0], [3.0, 1.0, 1.0]])
    >>> errors = torch.tensor([[0.20, 0.22, 0.21], [0.20, 0.21, 0.22]])
    >>> trial = PrecisionTrial(seconds, errors)
    >>> trial.speedup, trial.precision
    (2.0, 'bf16')
    """

    seconds: Tensor
    errors: Tensor

    @property
    def speedup(self) -> float:
        """The median of time in fp32 over time in bf16, without the first seed, which warms up; 0
        where nothing was measured.
        """
        ratios = (self.seconds[0] / self.seconds[1])[1:]
        return float(median(ratios[ratios.isfinite()].tolist() or [0.0]))

    @property
    def limit(self) -> float:
        """The upper end of the two-sided 95 % interval of the mean error in fp32 over the seeds:
        mean + t(0.975, k - 1) s / sqrt(k), s the standard deviation of k seeds.
        """
        errors = self.errors[0].double()
        quantile = float(stdtrit(len(errors) - 1, 0.975))
        return float(errors.mean() + quantile * errors.std() / len(errors) ** 0.5)

    @property
    def precision(self) -> Literal["fp32", "bf16"]:
        """The faster precision, if its mean error is within the interval of fp32 or below it."""
        is_fast = self.speedup >= SPEEDUP
        return "bf16" if is_fast and float(self.errors[1].double().mean()) <= self.limit else "fp32"

    def describe(self) -> str:
        """The choice and its reason as a sentence."""
        if self.speedup == 0:
            return "retraining computes in fp32: the device has no instructions for bfloat16"
        start = f"retraining computes in {self.precision}: bf16 is {self.speedup:.2f} times as fast"
        if self.speedup < SPEEDUP:
            return f"{start} here, and {SPEEDUP} is the least that pays"
        if not self.errors.isfinite().all():
            return f"{start} here, and a short training from the dense network diverged"
        fp32, bf16 = (float(row.double().mean()) for row in self.errors)
        return (
            f"{start} here, and over {self.errors.shape[1]} short trainings from the dense network "
            f"its mean validation error is {bf16:.2%}, that of fp32 {fp32:.2%} (95 % interval up "
            f"to {self.limit:.2%})"
        )


def count_trial_steps(steps: int) -> int:
    """The steps of each training in a trial for a job that takes so many; 0 for a job too short.

    >>> count_trial_steps(100), count_trial_steps(200), count_trial_steps(10**6)
    (0, 4, 50)
    """
    if steps < LEAST_SHARE * LEAST_STEPS * SEEDS * len(PRECISIONS):
        return 0
    return max(LEAST_STEPS, min(MOST_STEPS, steps // 100))


def try_precisions(
    model: nn.Module,
    data: Data,
    training: Training,
    *,
    seed: int,
    steps: int,
    teacher: Teacher | None = None,
) -> PrecisionTrial:
    """Train copies of a network for `steps` steps in both precisions, with the same images in the
    same order, under five seeds, and compare them on validation images.

    The model does not change. The error of a training that diverges is infinite.
    """
    order = torch.randperm(len(data.val), generator=generator(seed, "precision"))
    judges = data.val[order[:IMAGES].to(data.val.labels.device)]
    schedule = training.model_copy(
        update={"epochs": 1, "keep": "last", "lr_schedule": LrSchedule(), "rewind_epoch": 0}
    )
    seconds = torch.full((len(PRECISIONS), SEEDS), torch.nan, dtype=torch.float64)
    errors = seconds.clone()
    for number in range(SEEDS):
        order = torch.randperm(
            len(data.fit), generator=generator(seed, "precision", "images", number)
        )
        index = order[: steps * training.batch_size].to(data.fit.labels.device)
        images = replace(data, fit=data.fit[index])
        for row in (0, 1) if number % 2 else (1, 0):  # neither is always the first
            network = copy.deepcopy(model)
            begin = time.perf_counter()
            try:
                train_(
                    network,
                    images,
                    schedule.model_copy(update={"precision": PRECISIONS[row]}),
                    seed=seed,
                    name=f"precision-{number}",
                    teacher=teacher,
                )
            except DivergenceError:
                errors[row, number] = torch.inf
                continue
            finally:  # training has ended: it reads whether its weights are finite
                seconds[row, number] = time.perf_counter() - begin
            errors[row, number] = float(measure_errors(network, data, judges).double().mean())
        trial = PrecisionTrial(seconds.clone(), errors.clone())
        if number == 1 and trial.speedup < SPEEDUP:
            break
    return trial
