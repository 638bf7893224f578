"""A second dense network, trained in the same way from another seed: it shows what two networks
have in common through training alone.
"""

from __future__ import annotations

import torch
from torch import nn

from pruning.pipeline.pipeline import Pipeline
from pruning.pipeline.stage_files import SecondNetworkStage
from pruning.seeding import generator, seeded
from pruning.storage.stages import PartialTraining
from pruning.training.loop import Controls, train_

NAME = "separate"
"""The stage of the second network."""


def train_second_network(pipeline: Pipeline) -> nn.Module | None:
    """The network as `model.train` makes it from the job's seed plus 1; None where the job does not
    train its network.

    It is trained once, and resumed like every training of the job.
    """
    schedule = pipeline.recipe.train
    if schedule is None:
        return None
    seed = pipeline.recipe.seed + 1
    restore = SecondNetworkStage.restore
    with pipeline.ledger.enter("evaluate", NAME, 0, restore) as unfinished:
        if unfinished:
            initialisation = generator(seed, "initialisation")
            with seeded(int(torch.randint(2**62, (1,), generator=initialisation))):
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
                include=pipeline.recipe.include,
                start_epoch=0,
                stop_epoch=schedule.epochs,
                controls=controls,
            )
            stage = SecondNetworkStage(model=model.state_dict())
            pipeline.ledger.finish(NAME, stage.tensors())
    return pipeline.network(pipeline.ledger.restore(NAME, restore).model)
