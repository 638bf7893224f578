"""A second dense network, trained alike from another seed: what two networks have in common by
training alone.
"""

from __future__ import annotations

import torch
from torch import nn

from pruning.pipeline.pipeline import Pipeline
from pruning.seeding import generator, seeded
from pruning.storage.stages import PartialTraining
from pruning.training.loop import Controls, train_

NAME = "separate"


def train_second_network(pipeline: Pipeline) -> nn.Module | None:
    """The network as `model.train` makes it from the job's seed plus 1; None where the job does not
    train its network.

    Trained once, and resumed like every training of the job.
    """
    schedule, seed = pipeline.recipe.train, pipeline.recipe.seed + 1
    if schedule is None:
        return None
    with pipeline.ledger.enter("evaluate", NAME, 0) as fresh:
        if fresh:
            with seeded(
                int(torch.randint(2**62, (1,), generator=generator(seed, "initialisation")))
            ):
                model = pipeline.networks.build().to(pipeline.device)
            controls = Controls(
                saver=PartialTraining(pipeline.stages, NAME),
                every_steps=pipeline.checkpoint_steps,
                warn=pipeline.ledger.warn,
                advance=lambda images: None,
                at_epoch=lambda epoch: None,
            )
            train_(
                model,
                pipeline.data,
                schedule,
                seed=seed,
                name="train",
                masks=None,
                exclude=pipeline.recipe.exclude,
                start_epoch=0,
                stop_epoch=schedule.epochs,
                controls=controls,
            )
            pipeline.ledger.finish(
                NAME, {f"model.{key}": value for key, value in model.state_dict().items()}
            )
    return pipeline.network(pipeline.ledger.part(NAME, "model."))
