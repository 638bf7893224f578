"""A pruning job from the dense network to the report; every stage is saved, and a stage that is
finished is not done again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from pruning.analysis.job_record import RoundRecord
from pruning.channels.compaction import build_compact
from pruning.data.tensors import Data
from pruning.errors import PRUNING_ERRORS, ParameterError, SecateurError
from pruning.evidence.calibration import choose_calibration, draw_batches, measure_training_losses
from pruning.evidence.evidence import Evidence
from pruning.masks import build_full_masks, density, find_collapsed, find_prunable
from pruning.measurement.measure import Measured, measure_network
from pruning.measurement.objective import choose_loss
from pruning.pipeline.evaluation_traits import reads_unretrained
from pruning.pipeline.ledger import Ledger, State, Watcher, add_prefix, copy_state
from pruning.pipeline.trainer import Trainer
from pruning.rounds.costs import Costs
from pruning.rounds.method import PruningMethod, refuse_repeated
from pruning.rounds.plan import PlannedRound, find_training_epochs, keeps_unretrained, plan_rounds
from pruning.rounds.pruning import StageLoss, prune_
from pruning.schemas.criterion_labels import label_criteria
from pruning.schemas.recipe import Method, Recipe
from pruning.schemas.report import Failure
from pruning.seeding import generator, seeded
from pruning.storage.stages import Stages
from pruning.training.batchnorm import reestimate_
from pruning.types import Masks
from pruning.verdict.baseline import check_baseline


@dataclass(frozen=True)
class Networks:
    """The sources of a job's networks."""

    build: Callable[[], nn.Module]
    """The architecture, freshly initialised from PyTorch's global generator."""
    initial: State | None = None
    """Uploaded weights; None starts from the architecture's initialisation."""
    rewind: State | None = None
    """The weights to rewind to, when the job does not train the network itself."""


@dataclass(frozen=True, kw_only=True)
class _CriterionRound:
    """A planned round of one criterion of the recipe."""

    name: str
    """The name of the stage it is saved as."""
    planned: PlannedRound
    criterion: Method
    label: str
    method: PruningMethod


@dataclass(kw_only=True)
class Pipeline:
    """The stages of one job. `target_done` is called whenever a target's network is finished."""

    recipe: Recipe
    networks: Networks
    data: Data
    stages: Stages
    watcher: Watcher
    device: torch.device
    checkpoint_steps: int = 200
    target_done: Callable[[RoundRecord], None] = field(default=lambda record: None)
    done: list[RoundRecord] = field(default_factory=list)
    """The rounds that are finished."""
    failures: list[Failure] = field(default_factory=list)
    """The criteria that could not go on."""
    evaluations: Mapping[str, int] = field(default_factory=dict)
    """The costs of the evaluations that will follow, by name: a share of the progress."""

    def __post_init__(self) -> None:
        rewinds = self.recipe.retrain.mode == "weight_rewind"
        if rewinds and self.recipe.train is None and self.networks.rewind is None:
            raise ParameterError(
                "weight rewinding needs the weights to rewind to", pointer="/retrain/mode"
            )
        refuse_repeated(self.recipe)
        self.costs = Costs(self.recipe, self.data.sizes, len(self.data.classes))
        self.ledger = Ledger(
            stages=self.stages,
            watcher=self.watcher,
            total=float(self.costs.total + sum(self.evaluations.values())),
        )
        self.trainer = Trainer(
            recipe=self.recipe,
            data=self.data,
            ledger=self.ledger,
            load_dense=self.dense,
            checkpoint_steps=self.checkpoint_steps,
        )

    def run(self) -> None:
        """Run every stage up to the last round."""
        self._make_dense()
        self._make_control()
        labels = label_criteria(self.recipe)
        errors: list[SecateurError] = []
        for index, criterion in enumerate(self.recipe.criteria):
            try:
                self._run_rounds(index, criterion, labels[index])
            except PRUNING_ERRORS as error:
                errors.append(error)
                self.failures.append(
                    Failure(name=labels[index], code=error.code, message=error.message)
                )
                self.ledger.warn(f"{error.message}; the criterion ends here, the others go on")
        if len(errors) == len(self.recipe.criteria):
            raise errors[0]

    def network(self, state: State) -> nn.Module:
        """The architecture with these weights, in eval mode on the job's device."""
        model = self._build_network()
        model.load_state_dict(state)
        return model.to(self.device).eval()

    def dense(self) -> nn.Module:
        """The network as given, or as trained by the job."""
        return self.network(self.ledger.load_part("dense", "model."))

    def control(self) -> nn.Module:
        """The dense control."""
        return self.network(self.ledger.load_part("control", "model."))

    @property
    def given_measured(self) -> Measured:
        """The dense network's measurements."""
        return self.ledger.load_measured("dense", "given")

    @property
    def control_measured(self) -> Measured:
        """The dense control's measurements."""
        return self.ledger.load_measured("control", "control")

    @property
    def control_retrained(self) -> bool:
        """Whether the dense control is another network than the one given."""
        return self.recipe.when == "after_training" and self.recipe.retrain.mode != "none"

    @property
    def _prunes_untrained(self) -> bool:
        return self.recipe.when == "before_training"

    def _make_dense(self) -> None:
        """Train the dense network where the recipe does, measure it, and check that it is fit for
        pruning.
        """
        with self.ledger.enter("baseline", "dense", self.costs.dense) as unfinished:
            if unfinished:
                model = self._build_initial()
                tensors: State = {}
                if self._prunes_untrained:
                    tensors |= add_prefix("initial.", copy_state(model))
                rewind = self.networks.rewind or {}
                if self.recipe.train is not None:
                    rewind = self.trainer.train_dense_(model, self.recipe.train)
                tensors |= self._measure(model).tensors("given")
                tensors |= add_prefix("model.", model.state_dict())
                tensors |= add_prefix("rewind.", rewind)
                self.ledger.finish("dense", tensors)
        self._check_dense()

    def _check_dense(self) -> None:
        """Warn where the dense network is a poor baseline, or its validation error is too low."""
        trained = self.recipe.train is not None
        measured = self.given_measured.document()
        check_baseline(measured, self.data, trained=trained, warn=self.ledger.warn)
        if self.networks.initial is not None and not trained and self.data.val_from_train:
            self.ledger.warn(
                "the validation images were set aside from train; an uploaded network that was "
                "trained on them has too low an error there (as given: validation "
                f"{measured.val_error.value:.2%}, test {measured.error.value:.2%})"
            )

    def _make_control(self) -> None:
        """Retrain the dense network as the pruned ones are retrained, and measure it."""
        with self.ledger.enter("retrain", "control", self.costs.control) as unfinished:
            if not unfinished:
                return
            model = self.dense()
            measured = self.given_measured
            epochs = find_training_epochs(self.recipe) if self.control_retrained else None
            if epochs is not None:
                self.trainer.retrain_(model, "control", epochs=epochs, number=1)
                measured = self._measure(model)
            tensors = add_prefix("model.", model.state_dict())
            self.ledger.finish("control", tensors | measured.tensors("control"))

    def _run_rounds(self, index: int, criterion: Method, label: str) -> None:
        """Prune and retrain round by round with one criterion, the recipe's at `index`."""
        before: str | None = None
        for planned in plan_rounds(self.recipe):
            current = _CriterionRound(
                name=f"round-{index}-{planned.number:03d}",
                planned=planned,
                criterion=criterion,
                label=label,
                method=PruningMethod.of(self.recipe, criterion),
            )
            cost = self.costs.round(criterion, planned)
            with self.ledger.enter("prune", current.name, cost) as unfinished:
                if unfinished:
                    try:
                        self._run_round(current, None if planned.restart else before)
                    except PRUNING_ERRORS as error:
                        raise type(error)(
                            f"{label}, round {planned.number}: {error}", pointer=error.pointer
                        ) from error
            before = current.name
            record = self._record_round(current)
            self.done.append(record)
            if planned.target is not None:
                self.target_done(record)

    def _run_round(self, current: _CriterionRound, before: str | None) -> None:
        """Prune, measure, retrain and save one round, from the stage `before` or the dense
        network.
        """
        planned = current.planned
        seed = self.recipe.seed
        model, masks = self._start_round(before)
        tensors = {"loss.before": measure_training_losses(model, self.data, seed)}
        masks, stage_losses = self._prune_(model, masks, current)
        tensors["loss.after"] = measure_training_losses(model, self.data, seed)
        self.ledger.advance(2 * len(tensors["loss.after"]))
        tensors |= add_prefix("mask.", masks)
        notes: dict[str, Any] = {"stages": [vars(stage) for stage in stage_losses]}
        if self._prunes_untrained:
            tensors |= add_prefix("untrained.", copy_state(model))
        elif self.recipe.batchnorm == "reestimate":
            notes["batchnorm"] = reestimate_(model, self.data, seed, planned.number)
        compacts = current.method.compacts
        tensors |= self._measure(self._compact(model, masks, compacts)).tensors("pruned")
        notes["unretrained"] = keeps_unretrained(
            self.recipe, planned, read=reads_unretrained(self.recipe)
        )
        if notes["unretrained"]:
            tensors |= add_prefix("unretrained.", copy_state(model))
        if planned.epochs is not None:
            self.watcher.stage("retrain", current.name)
            self.trainer.retrain_(
                model,
                current.name,
                epochs=planned.epochs,
                number=planned.number,
                masks=masks,
                compacts=compacts,
            )
            tensors |= self._measure(self._compact(model, masks, compacts)).tensors("retrained")
        tensors |= add_prefix("model.", model.state_dict())
        self.ledger.finish(current.name, tensors, notes)

    def _start_round(self, before: str | None) -> tuple[nn.Module, Masks]:
        """The network and masks that a round starts from: those of the stage `before`, or the dense
        network. A job that prunes before training goes on from weights that were never trained.
        """
        if before is None:
            prefix = "initial." if self._prunes_untrained else "model."
            model = self.network(self.ledger.load_part("dense", prefix))
            return model, build_full_masks(find_prunable(model, self.recipe.exclude))
        prefix = "untrained." if self._prunes_untrained else "model."
        model = self.network(self.ledger.load_part(before, prefix))
        masks = self.ledger.load_part(before, "mask.")
        return model, {name: mask.to(self.device) for name, mask in masks.items()}

    def _prune_(
        self, model: nn.Module, masks: Masks, current: _CriterionRound
    ) -> tuple[Masks, list[StageLoss]]:
        """Prune in place to the density of the round, and return the new masks and, by stage, what
        a loss model says.
        """
        planned, method = current.planned, current.method
        data, seed = self.data, self.recipe.seed
        calibration = choose_calibration(method.criterion, len(data.classes))
        _, units = self.costs.pruning(current.criterion, planned)
        stage_losses: list[StageLoss] = []

        def collect_evidence(masks: Masks, stage: int) -> Evidence:
            return Evidence(
                model,
                masks,
                batches=partial(draw_batches, data, calibration, seed, planned.number, stage),
                generator=generator(seed, "criterion", planned.number, stage),
                exclude=self.recipe.exclude,
                loss=choose_loss(data.fit.labels),
                shape=data.shape,
            )

        def note_stage(stage_loss: StageLoss | None) -> None:
            self.ledger.advance(units)
            if stage_loss is not None:
                stage_losses.append(stage_loss)

        def warn(message: str) -> None:
            self.ledger.warn(f"{current.label}, round {planned.number}: {message}")

        start = density(masks)
        self._warn_of_cautions(current, start)
        masks = prune_(
            model,
            masks,
            planned.density,
            method,
            collect_evidence,
            on_stage=note_stage,
            warn=warn,
            generator=generator(seed, "sparsifier", planned.number),
        )
        if density(masks) == start:
            warn(
                f"nothing was removed: the density is {start:.4g} already, and what goes "
                "together is larger than the step"
            )
        for layer in find_collapsed(masks):
            warn(f"layer collapse: nothing remains of {layer}")
        return masks, stage_losses

    def _warn_of_cautions(self, current: _CriterionRound, start: float) -> None:
        """Warn of what a user should know about a round from density `start`, once in a job."""
        cautions = current.method.list_cautions(
            start, current.planned.density, self.recipe.retrain.mode
        )
        for caution in cautions:
            message = f"{current.label}: {caution}"
            if message not in self.ledger.warnings:
                self.ledger.warn(message)

    def _measure(self, model: nn.Module) -> Measured:
        return measure_network(model, self.data, self.ledger.advance)

    def _compact(self, model: nn.Module, masks: Masks, compacts: bool) -> nn.Module:
        """The network as it is shipped: without the channels that are removed as a whole."""
        return build_compact(model, masks, self.data.shape) if compacts else model

    def _record_round(self, current: _CriterionRound) -> RoundRecord:
        """The record of a finished round, which loads masks and networks from its stage on use."""
        name, planned = current.name, current.planned
        compacts = current.method.compacts
        load_part = partial(self.ledger.load_part, name)
        masks = load_part("mask.")
        _, note = self.ledger.load(name, "none.")
        kept = density(masks)

        def load_full_size(prefix: str) -> nn.Module:
            return self.network(load_part(prefix))

        def load_shipped() -> nn.Module:
            return self._compact(load_full_size("model."), masks, compacts)

        def load_losses() -> tuple[torch.Tensor, torch.Tensor]:
            losses = load_part("loss.")
            return losses["before"], losses["after"]

        load_unretrained = partial(load_full_size, "unretrained.")
        return RoundRecord(
            criterion=current.criterion,
            label=current.label,
            round=planned.number,
            sparsity=1.0 - kept,
            density=kept,
            target=planned.target,
            retrain_epochs=planned.trained_epochs,
            masks=partial(load_part, "mask."),
            network=load_shipped,
            full_size=partial(load_full_size, "model."),
            unretrained=load_unretrained if note.get("unretrained") else None,
            pruned=self.ledger.load_measured(name, "pruned"),
            retrained=self.ledger.load_measured(name, "retrained") if planned.retrained else None,
            compacted=compacts,
            stages=tuple(StageLoss(**stage) for stage in note["stages"]),
            batchnorm=note.get("batchnorm"),
            losses=load_losses,
        )

    def _build_initial(self) -> nn.Module:
        """The network before any training of the job, on the job's device."""
        model = self._build_network()
        if self.networks.initial is not None:
            model.load_state_dict(self.networks.initial)
        return model.to(self.device)

    def _build_network(self) -> nn.Module:
        """The architecture as the job's seed initialises it."""
        initialisation = generator(self.recipe.seed, "initialisation")
        with seeded(int(torch.randint(2**62, (1,), generator=initialisation))):
            return self.networks.build()
