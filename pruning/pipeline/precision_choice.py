"""The precision of a job's retrainings, which is measured once for a network on a machine."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pruning.data.tensors import Data
from pruning.measurement.costs import count_flops
from pruning.networks.device import choose_dtypes
from pruning.pipeline.ledger import Ledger
from pruning.rounds.costs import Costs, count_retraining_steps
from pruning.rounds.plan import plan_costliest_rounds
from pruning.schemas.recipe import Recipe
from pruning.storage.stages import StoredStage
from pruning.storage.tensor_cache import TensorCache, hash_content
from pruning.training.loop import Teacher
from pruning.training.precision import (
    LEAST_MULTIPLY_ADDS,
    PRECISIONS,
    SEEDS,
    PrecisionTrial,
    count_trial_steps,
    try_precisions,
)

NO_TRIAL = torch.full((2, len(PRECISIONS), SEEDS), torch.nan, dtype=torch.float64)
"""The seconds and errors where the device does not multiply bfloat16."""
KNOWN = 64
"""The validation images by which the data of an earlier trial are known again."""
STAGE = "precision"
"""The stage of the trial: a job that is resumed goes on in the precision that it began with."""


@dataclass(kw_only=True)
class PrecisionChoice:
    """Chooses between fp32 and bf16 where the recipe leaves it open and a trial pays.

    A trial needs a classifier that is retrained from trained weights, and a job of enough steps of
    enough arithmetic (`pruning.training.precision`). Its result is kept for later jobs on the same
    network, data, schedule and machine; on a device without bfloat16 the choice is fp32, and kept
    too, so that a job that goes on elsewhere stays in its precision.
    """

    recipe: Recipe
    data: Data
    device: torch.device
    costs: Costs
    ledger: Ledger
    load_dense: Callable[[], nn.Module]
    cache: TensorCache | None
    _trial: PrecisionTrial | None = None

    def choose(self) -> Literal["fp32", "bf16"]:
        """The precision that the trial chose; fp32 without one."""
        return "fp32" if self._trial is None else self._trial.precision

    def describe(self) -> str | None:
        """The choice and its reason; None where there was nothing to choose."""
        return None if self._trial is None else self._trial.describe()

    def prepare(self) -> None:
        """Make the choice, or take it from the stages of an earlier attempt or from the cache."""
        steps = self._count_steps()
        if steps == 0 and self.ledger.stages.open(STAGE) is None:
            return
        with self.ledger.enter("baseline", STAGE, 0, _restore) as unfinished:
            if unfinished:
                trial = self._take_from_cache(steps)
                self.ledger.finish(STAGE, {"seconds": trial[0], "errors": trial[1]})
        self._trial = self.ledger.restore(STAGE, _restore)

    def _count_steps(self) -> int:
        """The steps of each training of the trial; 0 for none."""
        recipe = self.recipe
        rewinds = recipe.retrain.mode in ("none", "weight_rewind")
        if rewinds or recipe.when == "before_training" or self.data.segmentation:
            return 0
        planned = plan_costliest_rounds(recipe, self.costs.given)
        of_the_job, batch = count_retraining_steps(self.costs, planned)
        steps = count_trial_steps(of_the_job)
        if steps == 0 or recipe.retraining.precision != "auto":
            return 0
        multiply_adds = count_flops(self.load_dense(), self.data.shape) // 2 * batch
        return steps if multiply_adds >= LEAST_MULTIPLY_ADDS else 0

    def _take_from_cache(self, steps: int) -> Tensor:
        """The seconds and errors of the trial, float64 (2, 2, seeds), measured where no job has."""
        if choose_dtypes(self.device)[0] != torch.bfloat16:
            return NO_TRIAL
        network = self.load_dense()
        if self.cache is None:
            return self._try(network, steps)
        weights = torch.cat([value.flatten().double() for value in network.state_dict().values()])
        fit, val = self.data.fit, self.data.val
        known = torch.arange(min(KNOWN, len(val)), device=val.labels.device)
        machine = f"{platform.processor()} {torch.backends.cpu.get_cpu_capability()}"
        if self.device.type == "cuda":
            machine = torch.cuda.get_device_name(self.device)
        key = hash_content(
            weights,
            hash_content(fit.dataset_indices),
            hash_content(fit.labels),
            hash_content(val.dataset_indices),
            hash_content(val[known].images),
            self.recipe.retraining.model_dump_json(exclude={"epochs", "mode"}),
            self.recipe.retrain.model_dump_json(include={"distill"}),
            STAGE,
            steps,
            machine,
            torch.get_num_threads(),
            torch.__version__,
        )
        return self.cache.get(key, lambda: self._try(network, steps))

    def _try(self, network: nn.Module, steps: int) -> Tensor:
        distillation = self.recipe.retrain.distillation
        teacher = None if distillation is None else Teacher(self.load_dense(), distillation)
        trial = try_precisions(
            network,
            self.data,
            self.recipe.retraining,
            seed=self.recipe.seed,
            steps=steps,
            teacher=teacher,
        )
        return torch.stack([trial.seconds, trial.errors])


def _restore(stored: StoredStage) -> PrecisionTrial:
    """The trial of a stage file; raises `KeyError` where it lacks something."""
    tensors = stored.whole
    return PrecisionTrial(tensors["seconds"], tensors["errors"])
