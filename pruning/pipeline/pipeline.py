"""A pruning job from the dense network to the report; every stage is saved, and one that is there
is not done again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from pruning.analysis.job_record import RoundRecord
from pruning.channels.compaction import build_compact, expand_
from pruning.data.tensors import Data
from pruning.errors import PRUNING_ERRORS, ParameterError, SecateurError
from pruning.evidence.calibration import choose_calibration, draw_batches, measure_training_losses
from pruning.evidence.evidence import Evidence
from pruning.masks import apply_masks_, build_full_masks, density, find_collapsed, find_prunable
from pruning.measurement.measure import Measured, measure_network
from pruning.measurement.objective import choose_loss
from pruning.pipeline.ledger import Ledger, State, Watcher
from pruning.rounds.costs import TEACHER_COST, TRAIN_COST, Costs
from pruning.rounds.method import PruningMethod, refuse_repeated
from pruning.rounds.plan import PlannedRound, find_training_epochs, keeps_unretrained, plan_rounds
from pruning.rounds.pruning import StageLoss, prune_
from pruning.schemas.criterion_labels import label_criteria
from pruning.schemas.recipe import Method, Recipe
from pruning.schemas.report import Failure
from pruning.schemas.training import Train, Training
from pruning.seeding import generator, seeded
from pruning.storage.stages import PartialTraining, Stages
from pruning.training.batchnorm import reestimate_
from pruning.training.loop import Controls, Teacher, train_
from pruning.types import Masks
from pruning.verdict.baseline import check_baseline


@dataclass(frozen=True)
class Networks:
    """Where a job's networks come from."""

    build: Callable[[], nn.Module]
    """The architecture, freshly initialised from PyTorch's global generator."""
    initial: State | None = None
    """Uploaded weights; None starts from the architecture's initialisation."""
    rewind: State | None = None
    """Weights to rewind to, when the job does not train the network itself."""


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
    target_done: Callable[[RoundRecord], None] = field(default=lambda done: None)
    done: list[RoundRecord] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    """Criteria that could not go on."""
    evaluations: Mapping[str, int] = field(default_factory=dict)
    """What those cost that will follow, by name: a share of the progress."""

    def __post_init__(self) -> None:
        if (
            self.recipe.retrain.mode == "weight_rewind"
            and self.recipe.train is None
            and self.networks.rewind is None
        ):
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

    def run(self) -> None:
        """Every stage up to the last round."""
        self._dense()
        self._control()
        labels = label_criteria(self.recipe)
        errors: list[SecateurError] = []
        for index, method in enumerate(self.recipe.criteria):
            try:
                self._cascade(index, method, labels[index])
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
                    tensors |= {
                        f"initial.{key}": value.clone() for key, value in model.state_dict().items()
                    }
                rewind = self.networks.rewind or {}
                if self.recipe.train is not None:
                    rewind = self._train_dense(model, self.recipe.train)
                tensors |= measure_network(model, self.data, self.ledger.advance).tensors("given")
                tensors |= {f"model.{key}": value for key, value in model.state_dict().items()}
                self.ledger.finish(
                    "dense", tensors | {f"rewind.{key}": value for key, value in rewind.items()}
                )
        found = self.given_measured.document()
        check_baseline(
            found, self.data, trained=self.recipe.train is not None, warn=self.ledger.warn
        )
        if (
            self.networks.initial is not None
            and self.recipe.train is None
            and self.data.val_from_train
        ):
            self.ledger.warn(
                "the validation images were set aside from train; an uploaded network that was "
                "trained on them has too low "
                f"an error there (as given: validation {found.val_error.value:.2%}, test "
                f"{found.error.value:.2%})"
            )

    def _train_dense(self, model: nn.Module, schedule: Train) -> State:
        """Train the network and return its weights at the rewind epoch, saved as soon as they are
        reached.
        """

        def keep(epoch: int) -> None:
            if epoch == schedule.rewind_epoch:
                self.stages.save("rewind", model.state_dict(), {})

        saver = PartialTraining(self.stages, "dense")
        if (
            self.stages.load("rewind") is None
        ):  # without its weights, what was trained beyond the rewind epoch is of no use
            saver.drop()
        self._train(model, schedule, "train", None, saver, (0, schedule.epochs), at_epoch=keep)
        return self.ledger.part("rewind", "")

    def _control(self) -> None:
        with self.ledger.enter("retrain", "control", self.costs.control) as fresh:
            if not fresh:
                return
            model, measured = self.dense(), self.given_measured
            epochs = find_training_epochs(self.recipe) if self.control_retrained else None
            if epochs is not None:
                self._retrain(model, None, "control", epochs, 1)
                measured = measure_network(model, self.data, self.ledger.advance)
            tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
            self.ledger.finish("control", tensors | measured.tensors("control"))

    def _cascade(self, index: int, method: Method, label: str) -> None:
        before: str | None = None
        for planned in plan_rounds(self.recipe):
            name = f"round-{index}-{planned.number:03d}"
            with self.ledger.enter("prune", name, self.costs.round(method, planned)) as fresh:
                if fresh:
                    try:
                        self._round(
                            name, None if planned.restart else before, planned, method, label
                        )
                    except PRUNING_ERRORS as error:
                        raise type(error)(
                            f"{label}, round {planned.number}: {error}", pointer=error.pointer
                        ) from error
            before = name
            done = self._trial_round(name, planned, method, label)
            self.done.append(done)
            if planned.target is not None:
                self.target_done(done)

    def _round(
        self, name: str, before: str | None, planned: PlannedRound, method: Method, label: str
    ) -> None:
        at_start = self.recipe.when == "before_training"
        model = self.network(
            self.ledger.part("dense", "initial." if at_start else "model.")
            if before is None
            else self.ledger.part(before, "untrained." if at_start else "model.")
        )
        masks = (
            build_full_masks(find_prunable(model, self.recipe.exclude))
            if before is None
            else {
                key: mask.to(self.device) for key, mask in self.ledger.part(before, "mask.").items()
            }
        )
        tensors = {"loss.before": measure_training_losses(model, self.data, self.recipe.seed)}
        masks, stages = self._prune(model, masks, planned, method, label)
        tensors |= {"loss.after": measure_training_losses(model, self.data, self.recipe.seed)}
        self.ledger.advance(2 * len(tensors["loss.after"]))
        tensors |= {f"mask.{key}": mask for key, mask in masks.items()}
        notes: dict[str, Any] = {"stages": [vars(stage) for stage in stages]}
        if at_start:
            tensors |= {
                f"untrained.{key}": value.clone() for key, value in model.state_dict().items()
            }
        elif self.recipe.batchnorm == "reestimate":
            notes["batchnorm"] = reestimate_(model, self.data, self.recipe.seed, planned.number)
        compacts = PruningMethod.of(self.recipe, method).compacts
        tensors |= measure_network(
            self._shipped(model, masks, compacts), self.data, self.ledger.advance
        ).tensors("pruned")
        notes["unretrained"] = keeps_unretrained(self.recipe, planned)
        if notes["unretrained"]:
            tensors |= {
                f"unretrained.{key}": value.clone() for key, value in model.state_dict().items()
            }
        if planned.epochs is not None:
            self.watcher.stage("retrain", name)
            self._retrain(model, masks, name, planned.epochs, planned.number, compacts=compacts)
            tensors |= measure_network(
                self._shipped(model, masks, compacts), self.data, self.ledger.advance
            ).tensors("retrained")
        tensors |= {f"model.{key}": value for key, value in model.state_dict().items()}
        self.ledger.finish(name, tensors, notes)

    def _prune(
        self, model: nn.Module, masks: Masks, planned: PlannedRound, method: Method, label: str
    ) -> tuple[Masks, list[StageLoss]]:
        seams, seed, data = PruningMethod.of(self.recipe, method), self.recipe.seed, self.data
        calibration = choose_calibration(seams.criterion, len(data.classes))
        _, units = self.costs.pruning(method, planned)
        found: list[StageLoss] = []

        def evidence(masks: Masks, stage: int) -> Evidence:
            return Evidence(
                model,
                masks,
                partial(draw_batches, data, calibration, seed, planned.number, stage),
                generator(seed, "criterion", planned.number, stage),
                self.recipe.exclude,
                loss=choose_loss(data.fit.labels),
                shape=data.shape,
            )

        def note(stage: StageLoss | None) -> None:
            self.ledger.advance(units)
            found.extend([] if stage is None else [stage])

        def warn(message: str) -> None:
            self.ledger.warn(f"{label}, round {planned.number}: {message}")

        start = density(masks)
        for caution in seams.cautions(start, planned.density, self.recipe.retrain.mode):
            if f"{label}: {caution}" not in self.ledger.warnings:
                self.ledger.warn(f"{label}: {caution}")
        masks = prune_(
            model,
            masks,
            planned.density,
            seams,
            evidence,
            on_stage=note,
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
        return masks, found

    def _shipped(self, model: nn.Module, masks: Masks, compacts: bool) -> nn.Module:
        """The network without the channels that are removed as a whole."""
        return build_compact(model, masks, self.data.shape) if compacts else model

    def _retrain(
        self,
        model: nn.Module,
        masks: Masks | None,
        name: str,
        epochs: tuple[int, int],
        number: int,
        *,
        compacts: bool = False,
    ) -> None:
        """Retrain in place; a network that lost channels is trained without them."""
        recipe, schedule = self.recipe, self.recipe.retrain
        train: Training = schedule
        purpose = "retrain-1" if schedule.mode == "gradual" else f"retrain-{number}"
        replayed = recipe.when == "before_training" or schedule.mode in (
            "weight_rewind",
            "lr_rewind",
        )
        if recipe.train is not None and replayed:
            train = recipe.train
            purpose = "train" if recipe.when == "before_training" else purpose
        if schedule.mode == "weight_rewind" and recipe.when == "after_training":
            model.load_state_dict(self.ledger.part("dense", "rewind."))
            apply_masks_(model, masks or {})
        teacher = (
            Teacher(self.dense(), schedule.distillation)
            if schedule.distillation is not None
            else None
        )
        if masks is not None and compacts:
            small = build_compact(model, masks, self.data.shape)
            self._train(
                small,
                train,
                purpose,
                None,
                PartialTraining(self.stages, name),
                epochs,
                teacher=teacher,
            )
            expand_(model, masks, small, self.data.shape)
        else:
            self._train(
                model,
                train,
                purpose,
                masks,
                PartialTraining(self.stages, name),
                epochs,
                teacher=teacher,
            )

    def _train(
        self,
        model: nn.Module,
        schedule: Training,
        name: str,
        masks: Masks | None,
        saver: PartialTraining,
        epochs: tuple[int, int],
        *,
        at_epoch: Callable[[int], None] = lambda epoch: None,
        teacher: Teacher | None = None,
    ) -> None:
        each = TRAIN_COST + (TEACHER_COST if teacher is not None else 0)
        controls = Controls(
            saver=saver,
            every_steps=self.checkpoint_steps,
            warn=self.ledger.warn,
            at_epoch=at_epoch,
            advance=lambda images: self.ledger.advance(each * images),
        )
        train_(
            model,
            self.data,
            schedule,
            seed=self.recipe.seed,
            name=name,
            masks=masks,
            exclude=self.recipe.exclude,
            start_epoch=epochs[0],
            stop_epoch=epochs[1],
            teacher=teacher,
            controls=controls,
        )

    def _trial_round(
        self, name: str, planned: PlannedRound, method: Method, label: str
    ) -> RoundRecord:
        masks, note = self.ledger.part(name, "mask."), self.ledger.load(name, "none.")[1]
        kept, compacts = density(masks), PruningMethod.of(self.recipe, method).compacts

        def full_size(prefix: str) -> nn.Module:
            return self.network(self.ledger.part(name, prefix))

        return RoundRecord(
            criterion=method,
            label=label,
            round=planned.number,
            sparsity=1.0 - kept,
            density=kept,
            target=planned.target,
            retrain_epochs=planned.trained_epochs,
            masks=partial(self.ledger.part, name, "mask."),
            network=lambda: self._shipped(full_size("model."), masks, compacts),
            full_size=partial(full_size, "model."),
            unretrained=partial(full_size, "unretrained.") if note.get("unretrained") else None,
            pruned=self.ledger.measured(name, "pruned"),
            retrained=self.ledger.measured(name, "retrained") if planned.retrained else None,
            compacted=compacts,
            stages=tuple(StageLoss(**stage) for stage in note["stages"]),
            batchnorm=note.get("batchnorm"),
            losses=lambda: (
                self.ledger.part(name, "loss.")["before"],
                self.ledger.part(name, "loss.")["after"],
            ),
        )

    def _initial(self) -> nn.Module:
        model = self._fresh()
        if self.networks.initial is not None:
            model.load_state_dict(self.networks.initial)
        return model.to(self.device)

    def _fresh(self) -> nn.Module:
        with seeded(
            int(torch.randint(2**62, (1,), generator=generator(self.recipe.seed, "initialisation")))
        ):
            return self.networks.build()
