"""The evidence of a round of a job: its draw of calibration images, and its randomness."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from pruning.data.tensors import Data
from pruning.evidence.calibration import choose_calibration, draw_batches
from pruning.evidence.evidence import Evidence
from pruning.measurement.objective import choose_loss
from pruning.rounds.method import PruningMethod
from pruning.schemas.recipe import Recipe
from pruning.seeding import generator
from pruning.types import Masks


def collect_evidence(
    model: nn.Module, recipe: Recipe, data: Data, method: PruningMethod, *draw: str | int
) -> Callable[[Masks, int], Evidence]:
    """Return a function of the masks and the number of a stage to the evidence at that point.

    `draw` names the draw of the images and the random choices of the criterion under the job's
    seed: the number of the round, and before it what tells a further draw apart.
    """
    calibration = choose_calibration(method.criterion, len(data.classes))

    def collect(masks: Masks, stage: int) -> Evidence:
        return Evidence(
            model,
            masks,
            batches=partial(draw_batches, data, calibration, recipe.seed, *draw, stage),
            generator=generator(recipe.seed, "criterion", *draw, stage),
            exclude=recipe.exclude,
            include=recipe.include,
            loss=choose_loss(data.fit.labels),
            shape=data.shape,
        )

    return collect
