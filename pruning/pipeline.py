"""A pruning job from the dense network to the report; every stage is saved, and one that is there is not done again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn

from pruning.allocations import allocations
from pruning.criteria import criteria
from pruning.data.tensors import Data, Split
from pruning.errors import BaselineMismatchError, ParameterError
from pruning.evidence import Batches, Evidence
from pruning.intervals import guesses
from pruning.ledger import Ledger, State, Watcher
from pruning.masks import apply_masks_, collapsed, density, full_masks, prunable
from pruning.measure import Measured, measure
from pruning.plan import TRAIN_COST, Costs, PlannedRound, rounds
from pruning.round import prune_
from pruning.schemas.recipe import Method, Recipe
from pruning.schemas.training import Train, Training
from pruning.seeding import generator
from pruning.sparsifiers import sparsifiers
from pruning.stages import PartialTraining, Stages
from pruning.training import Controls, train_
from pruning.trial import TrialRound
from pruning.types import Masks

CALIBRATION_IMAGES = 1000


@dataclass(frozen=True)
class Networks:
    """Where a job's networks come from."""

    build: Callable[[], nn.Module]
    """The architecture, freshly initialised from PyTorch's global generator."""
    initial: State | None = None
    """Uploaded weights; None starts from the architecture's initialisation."""
    rewind: State | None = None
    """Weights to rewind to, when the job does not train the network itself."""


@dataclass
class Pipeline:
    """The stages of one job. `target_done` is called whenever a target's network is finished."""

    recipe: Recipe
    networks: Networks
    data: Data
    stages: Stages
    watcher: Watcher
    device: torch.device
    checkpoint_steps: int = 200
    target_done: Callable[[TrialRound], None] = field(default=lambda done: None)
    done: list[TrialRound] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.recipe.retrain.mode == "weight_rewind" and self.recipe.train is None and self.networks.rewind is None:
            raise ParameterError("weight rewinding needs the weights to rewind to", pointer="/retrain/mode")
        self.costs = Costs.of(self.recipe, {"fit": len(self.data.fit), "val": len(self.data.val),
                                            "test": len(self.data.test)})
        self.ledger = Ledger(self.stages, self.watcher, float(self.costs.total(self.recipe)))

    def run(self) -> None:
        """Every stage up to the last round."""
        self._dense()
        self._control()
        labels = criterion_labels(self.recipe)
        for index, method in enumerate(self.recipe.criteria):
            self._cascade(index, method, labels[index])

    def network(self, state: State) -> nn.Module:
        """The architecture with these weights, in eval mode on the job's device."""
        model = self._fresh()
        model.load_state_dict(state)
        return model.to(self.device).eval()

    def dense(self) -> nn.Module:
        """The network as given, or as trained by the job."""
        return self.network(self.ledger.part("dense", "model."))

    def control(self) -> nn.Module:
        """The dense control."""
        return self.network(self.ledger.part("control", "model."))

    @property
    def given_measured(self) -> Measured:
        """The dense network's measurements."""
        return self.ledger.measured("dense", "given")

    @property
    def control_measured(self) -> Measured:
        """The dense control's measurements."""
        return self.ledger.measured("control", "control")

    @property
    def control_retrained(self) -> bool:
        """Whether the dense control is another network than the one given."""
        return self.recipe.when == "after_training" and self.recipe.retrain.mode != "none"

    def _dense(self) -> None:
        with self.ledger.enter("baseline", "dense", self.costs.dense) as fresh:
            if fresh:
                model = self._initial()
                tensors: State = {}
                if self.recipe.when == "before_training":
                    tensors |= {f"initial.{key}": value.clone() for key, value in model.state_dict().items()}
                rewind = self.networks.rewind or {}
                if self.recipe.train is not None:
                    rewind = self._train_dense(model, self.recipe.train)
                tensors |= measure(model, self.data, self.ledger.advance).tensors("given")
                tensors |= {f"model.{key}": value for key, value in model.state_dict().items()}
                self.ledger.finish("dense", tensors | {f"rewind.{key}": value for key, value in rewind.items()})
        found = self.given_measured.document()
        error, classes = found.error, len(self.data.classes)
        if guesses(error, classes):
            raise BaselineMismatchError(
                f"the dense network is wrong on {error.value:.1%} of the test images, no better than chance "
                f"({1 - 1 / classes:.1%}): model, classes and normalisation do not belong to this dataset")
        if self.networks.initial is not None and self.recipe.train is None and self.data.val_from_train:
            self.ledger.warn(
                "the validation images were set aside from train; an uploaded network that was trained on them has too low "
                f"an error there (as given: validation {found.val_error.value:.2%}, test {error.value:.2%})")

    def _train_dense(self, model: nn.Module, schedule: Train) -> State:
        """Train the network and return its weights at the rewind epoch, saved as soon as they are reached."""

        def keep(epoch: int) -> None:
            if epoch == schedule.rewind_epoch:
                self.stages.save("rewind", model.state_dict(), {})

        saver = PartialTraining(self.stages, "dense")
        if self.stages.load("rewind") is None:  # without its weights, what was trained beyond the rewind epoch is of no use
            saver.drop()
        self._train(model, schedule, "train", None, saver, at_epoch=keep)
        return self.ledger.part("rewind", "")

    def _control(self) -> None:
        with self.ledger.enter("retrain", "control", self.costs.control(self.recipe)) as fresh:
            if not fresh:
                return
            model, measured = self.dense(), self.given_measured
            if self.control_retrained:
                self._retrain(model, None, "control", 1)
                measured = measure(model, self.data, self.ledger.advance)
            tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
            self.ledger.finish("control", tensors | measured.tensors("control"))

    def _cascade(self, index: int, method: Method, label: str) -> None:
        before: str | None = None
        for planned in rounds(self.recipe):
            name = f"round-{index}-{planned.number:03d}"
            with self.ledger.enter("prune", name, self.costs.round(planned)) as fresh:
                if fresh:
                    self._round(name, None if planned.restart else before, planned, method, label)
            before = name
            done = self._trial_round(name, planned, method, label)
            self.done.append(done)
            if planned.target is not None:
                self.target_done(done)

    def _round(self, name: str, before: str | None, planned: PlannedRound, method: Method, label: str) -> None:
        recipe = self.recipe
        at_start = recipe.when == "before_training"
        model = self.network(self.ledger.part("dense", "initial." if at_start else "model.")
                             if before is None else self.ledger.part(before, "untrained." if at_start else "model."))
        masks = full_masks(prunable(model, recipe.exclude)) if before is None else {
            key: mask.to(self.device) for key, mask in self.ledger.part(before, "mask.").items()}
        evidence = Evidence(model, masks, partial(self._calibration, planned.number), exclude=recipe.exclude,
                            generator=generator(recipe.seed, "criterion", planned.number))
        masks = prune_(model, evidence, planned.density,
                       criterion=criteria.create(method.name, method.params),
                       allocation=allocations.create(recipe.allocation.name, recipe.allocation.params),
                       sparsifier=sparsifiers.create(recipe.sparsifier.name, recipe.sparsifier.params),
                       generator=generator(recipe.seed, "sparsifier", planned.number))
        for layer in collapsed(masks):
            self.ledger.warn(f"{label}, round {planned.number}: layer collapse: nothing remains of {layer}")
        tensors = {f"mask.{key}": mask for key, mask in masks.items()}
        if at_start:
            tensors |= {f"untrained.{key}": value.clone() for key, value in model.state_dict().items()}
        tensors |= measure(model, self.data, self.ledger.advance).tensors("pruned")
        if planned.retrained:
            self.watcher.stage("retrain", name)
            self._retrain(model, masks, name, planned.number)
            tensors |= measure(model, self.data, self.ledger.advance).tensors("retrained")
        tensors |= {f"model.{key}": value for key, value in model.state_dict().items()}
        self.ledger.finish(name, tensors)

    def _retrain(self, model: nn.Module, masks: Masks | None, name: str, number: int) -> None:
        recipe = self.recipe
        if recipe.when == "before_training":
            assert recipe.train is not None
            self._train(model, recipe.train, "train", masks, PartialTraining(self.stages, name))
            return
        schedule: Training = recipe.retrain
        start = recipe.retrain.rewind_epoch
        if recipe.train is not None and recipe.retrain.mode in ("weight_rewind", "lr_rewind"):
            schedule, start = recipe.train, recipe.train.rewind_epoch
        if recipe.retrain.mode == "weight_rewind":
            model.load_state_dict(self.ledger.part("dense", "rewind."))
            apply_masks_(model, masks or {})
        self._train(model, schedule, f"retrain-{number}", masks, PartialTraining(self.stages, name), start=start)

    def _train(self, model: nn.Module, schedule: Training, name: str, masks: Masks | None, saver: PartialTraining, *,
               start: int = 0, at_epoch: Callable[[int], None] = lambda epoch: None) -> None:
        controls = Controls(saver=saver, every_steps=self.checkpoint_steps, warn=self.ledger.warn, at_epoch=at_epoch,
                            advance=lambda images: self.ledger.advance(TRAIN_COST * images))
        train_(model, self.data, schedule, seed=self.recipe.seed, name=name, masks=masks, start_epoch=start,
               controls=controls)

    def _trial_round(self, name: str, planned: PlannedRound, method: Method, label: str) -> TrialRound:
        masks = self.ledger.part(name, "mask.")
        kept = density(masks)
        retrained = self.ledger.measured(name, "retrained") if planned.retrained else None
        return TrialRound(
            method, label, planned.number, 1.0 - kept, kept, planned.target,
            planned.retrainings * self.costs.retrain_epochs, partial(self.ledger.part, name, "mask."),
            lambda: self.network(self.ledger.part(name, "model.")), self.ledger.measured(name, "pruned"), retrained)

    def _calibration(self, number: int) -> Batches:
        """A seeded draw of training images without augmentation."""
        fit = self.data.fit
        index = torch.randperm(len(fit), generator=generator(self.recipe.seed, "calibration", number))
        index = index[:CALIBRATION_IMAGES].to(fit.labels.device)
        return list(self.data.batches(Split(fit.images[index], fit.labels[index]), 100))

    def _initial(self) -> nn.Module:
        model = self._fresh()
        if self.networks.initial is not None:
            model.load_state_dict(self.networks.initial)
        return model.to(self.device)

    def _fresh(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator(self.recipe.seed, "initialisation"))))
            return self.networks.build()


def criterion_labels(recipe: Recipe) -> list[str]:
    """A short unique name for every criterion of the recipe: its name, numbered where it comes more than once."""
    names = [method.name for method in recipe.criteria]
    return [name if names.count(name) == 1 else f"{name}-{names[:index + 1].count(name)}"
            for index, name in enumerate(names)]
