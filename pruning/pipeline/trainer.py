"""The trainings of a job: of the dense network, and of the networks after pruning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from pruning.channels.compaction import build_compact, expand_
from pruning.data.tensors import Data
from pruning.masks import apply_masks_, find_prunable
from pruning.networks.loading import load_weights_
from pruning.pipeline.ledger import Ledger
from pruning.pipeline.stage_files import Weights
from pruning.rounds.costs import TEACHER_COST, TRAIN_COST
from pruning.rounds.given_zeros import GivenZeros
from pruning.schemas.recipe import Recipe
from pruning.schemas.training import Train, Training
from pruning.storage.stages import PartialTraining
from pruning.training.loop import Controls, Teacher, train_
from pruning.types import Masks


@dataclass(kw_only=True)
class Trainer:
    """Trains the networks of a job in place; a training that was interrupted goes on."""

    recipe: Recipe
    data: Data
    ledger: Ledger
    load_dense: Callable[[], nn.Module]
    """Loads the dense network: the teacher where networks are distilled."""
    load_rewind: Callable[[], Weights]
    """Loads the weights to rewind to."""
    checkpoint_steps: int
    zeros: GivenZeros
    """The zeros that the network came with, where they are kept."""
    choose_precision: Callable[[], Literal["fp32", "bf16"]]
    """Chooses what retraining computes in, where the recipe leaves it open."""

    @property
    def rewinds(self) -> bool:
        """Whether retraining starts from the weights to rewind to."""
        mode, when = self.recipe.retrain.mode, self.recipe.when
        return mode == "weight_rewind" and when == "after_training"

    def train_dense_(self, model: nn.Module, schedule: Train) -> Weights:
        """Train the network and return its weights at the rewind epoch.

        They are saved as soon as they are reached.
        """
        stages = self.ledger.stages

        def save_rewind(epoch: int) -> None:
            if epoch == schedule.rewind_epoch:
                stages.save("rewind", model.state_dict(), {})

        if stages.open("rewind") is None:
            # A training beyond the rewind epoch is of no use without the weights at that epoch.
            PartialTraining(stages, "dense").drop()
        self.train_(
            model,
            schedule,
            stage="dense",
            name="train",
            epochs=(0, schedule.epochs),
            at_epoch=save_rewind,
        )
        return self.ledger.open("rewind").whole

    def retrain_(
        self,
        model: nn.Module,
        stage: str,
        *,
        epochs: tuple[int, int],
        number: int,
        masks: Masks | None = None,
        compacts: bool = False,
    ) -> None:
        """Retrain as round `number` does; with `compacts` the network is trained without the
        channels that it lost. The dense control has no masks, or those of the zeros that the
        network came with.
        """
        if masks is None and self.zeros.masks:
            masks = self.zeros.build_masks(
                find_prunable(model, self.recipe.exclude, self.recipe.include)
            )
        schedule, name = self._choose_schedule(number)
        if schedule.precision == "auto":
            schedule = schedule.model_copy(update={"precision": self.choose_precision()})
        retrain = self.recipe.retrain
        if self.rewinds:
            load_weights_(model, self.load_rewind())
            apply_masks_(model, masks or {})
        teacher = None
        if retrain.distillation is not None:
            teacher = Teacher(self.load_dense(), retrain.distillation)
        if masks is None or not compacts:
            self.train_(
                model,
                schedule,
                stage=stage,
                name=name,
                epochs=epochs,
                masks=masks,
                teacher=teacher,
            )
            return
        small = build_compact(model, masks, self.data.shape)
        self.train_(small, schedule, stage=stage, name=name, epochs=epochs, teacher=teacher)
        expand_(model, masks, small, self.data.shape)

    def _choose_schedule(self, number: int) -> tuple[Training, str]:
        """The schedule of the retraining in round `number`, and the name its draws are seeded by.

        Retrainings that replay the training of the dense network take its schedule; where nothing
        was trained before, they take its draws too. The rounds of a gradual retraining are one run.
        """
        if self.recipe.train is not None and self.recipe.when == "before_training":
            return self.recipe.retraining, "train"
        name = "retrain-1" if self.recipe.retrain.mode == "gradual" else f"retrain-{number}"
        return self.recipe.retraining, name

    def train_(  # noqa: PLR0913 (all but model and schedule are by keyword)
        self,
        model: nn.Module,
        schedule: Training,
        *,
        stage: str,
        name: str,
        epochs: tuple[int, int],
        masks: Masks | None = None,
        at_epoch: Callable[[int], None] = lambda epoch: None,
        teacher: Teacher | None = None,
    ) -> None:
        """Train from the first of the `epochs` to before the second, as a part of the `stage`; the
        draws are seeded by `name`.
        """
        image_cost = TRAIN_COST
        if teacher is not None:
            image_cost += TEACHER_COST
        controls = Controls(
            saver=PartialTraining(self.ledger.stages, stage),
            every_steps=self.checkpoint_steps,
            warn=self.ledger.warn,
            at_epoch=at_epoch,
            advance=lambda images: self.ledger.advance(image_cost * images),
            look=self.ledger.advance,
        )
        train_(
            model,
            self.data,
            schedule,
            seed=self.recipe.seed,
            name=name,
            masks=masks,
            exclude=self.recipe.exclude,
            include=self.recipe.include,
            start_epoch=epochs[0],
            stop_epoch=epochs[1],
            teacher=teacher,
            controls=controls,
        )
