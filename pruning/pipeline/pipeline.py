"""A pruning job from the dense network to the report; every stage is saved, and a stage that is
finished is not done again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pruning import wording
from pruning.analysis.job_record import Asked, ControlRecord, RoundRecord
from pruning.channels.compaction import build_compact
from pruning.data.tensors import Data
from pruning.errors import PRUNING_ERRORS, ParameterError, SecateurError
from pruning.evidence.calibration import measure_training_losses
from pruning.masks import density, find_prunable
from pruning.measurement.measure import Measured, measure_network
from pruning.networks.loading import load_weights_
from pruning.pipeline.control_trainer import ControlTrainer
from pruning.pipeline.evaluation_traits import reads_losses, reads_unretrained
from pruning.pipeline.ledger import Ledger, Watcher, copy_state
from pruning.pipeline.precision_choice import PrecisionChoice
from pruning.pipeline.pruner import CriterionRound, Pruner
from pruning.pipeline.round_loader import RoundLoader
from pruning.pipeline.stage_files import DenseStage, RoundStage, Weights
from pruning.pipeline.trainer import Trainer
from pruning.rounds.budgets import Gauge
from pruning.rounds.costs import Costs
from pruning.rounds.given_zeros import GivenZeros, list_reached_targets
from pruning.rounds.method import refuse_repeated
from pruning.rounds.plan import keeps_unretrained, plan_rounds
from pruning.schemas.criterion_labels import label_criteria
from pruning.schemas.recipe import Method, Recipe
from pruning.schemas.report import Failure
from pruning.seeding import generator, seeded
from pruning.storage.stages import Stages, State, StoredStage
from pruning.storage.tensor_cache import TensorCache
from pruning.training.batchnorm import has_running_statistics, reestimate_
from pruning.types import Masks
from pruning.verdict.baseline import check_baseline, compare_splits, refuse_non_finite


@dataclass(frozen=True)
class Networks:
    """The sources of a job's networks."""

    build: Callable[[], nn.Module]
    """The architecture, freshly initialised from PyTorch's global generator."""
    initial: State | None = None
    """Uploaded weights; None starts from the architecture's initialisation."""
    rewind: State | None = None
    """The weights to rewind to, when the job does not train the network itself."""


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
    cache: TensorCache | None = None
    """The tensors that are kept for later jobs, where any are."""
    file_info: Mapping[str, Any] = field(default_factory=dict)
    """The metadata of the files of the job's networks, which budgets of bytes account for."""
    image_flops: int = 0
    """The FLOPs of one image through the dense network, of which units are multiples."""

    def __post_init__(self) -> None:
        rewinds = self.recipe.retrain.mode == "weight_rewind"
        if rewinds and self.recipe.train is None and self.networks.rewind is None:
            raise ParameterError(
                "weight rewinding needs the weights to rewind to", pointer="/retrain/mode"
            )
        refuse_repeated(self.recipe)
        network = self._build_network()
        gauge = Gauge.of(self.recipe, network, self.data.shape, self.file_info)
        if gauge is not None:
            self.recipe = gauge.settle(self.recipe)
        given = GivenZeros.find(self.networks.build, self.networks.initial, self.recipe)
        self.zeros = given.kept_by(self.recipe)
        self.costs = Costs(
            self.recipe,
            self.data.sizes,
            len(self.data.classes),
            self.zeros.density,
            reads_losses=reads_losses(self.recipe),
            has_batchnorm=has_running_statistics(network),
            layers=len(find_prunable(network, self.recipe.exclude, self.recipe.include)),
        )
        self.ledger = Ledger(
            stages=self.stages,
            watcher=self.watcher,
            total=float(self.costs.total + sum(self.evaluations.values())),
        )
        self.precision = PrecisionChoice(
            recipe=self.recipe,
            data=self.data,
            device=self.device,
            costs=self.costs,
            ledger=self.ledger,
            load_dense=self.dense,
            cache=self.cache,
        )
        self.trainer = Trainer(
            recipe=self.recipe,
            data=self.data,
            ledger=self.ledger,
            load_dense=self.dense,
            load_rewind=self._load_rewind,
            checkpoint_steps=self.checkpoint_steps,
            zeros=self.zeros,
            choose_precision=self.precision.choose,
        )
        self._warn_of_zeros(given.describe(self.recipe))
        self.control_trainer = ControlTrainer(
            recipe=self.recipe,
            costs=self.costs,
            ledger=self.ledger,
            trainer=self.trainer,
            load_dense=self._load_dense,
            build=self.network,
            measure=self._measure,
        )
        self.pruner = Pruner(
            recipe=self.recipe, data=self.data, ledger=self.ledger, costs=self.costs, gauge=gauge
        )

    def run(self) -> None:
        """Run every stage up to the last round."""
        self._make_dense()
        self.precision.prepare()
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

    def network(self, weights: Weights) -> nn.Module:
        """The architecture with these weights, in eval mode on the job's device."""
        model = self._build_network()
        load_weights_(model, weights)
        return model.to(self.device).eval()

    def dense(self) -> nn.Module:
        """The network as given, or as trained by the job."""
        return self.network(self._load_dense().model)

    @property
    def controls(self) -> Sequence[ControlRecord]:
        """The dense controls that are finished and measured, those with fewer retrainings first."""
        return self.control_trainer.records

    @property
    def given_measured(self) -> Measured:
        """The dense network's measurements."""
        return self._load_dense().measured

    @property
    def _prunes_untrained(self) -> bool:
        return self.recipe.when == "before_training"

    def _warn_of_zeros(self, sentence: str | None) -> None:
        """Say what becomes of the zeros of the network, and of targets that they reach."""
        total = sum(mask.numel() for mask in self.zeros.masks.values())
        reached = list_reached_targets(self.recipe, self.zeros.count, total)
        for message in [sentence, *reached]:
            if message is not None:
                self.ledger.warn(message)

    def build_start_masks(self, model: nn.Module) -> Masks:
        """The masks of the dense network: of the zeros it came with where they are kept, else full
        ones.
        """
        return self.zeros.build_masks(
            find_prunable(model, self.recipe.exclude, self.recipe.include)
        )

    def _restore_dense(self, stored: StoredStage) -> DenseStage:
        return DenseStage.restore(
            stored, initial=self._prunes_untrained, rewind=self.trainer.rewinds
        )

    def _load_dense(self) -> DenseStage:
        return self.ledger.restore("dense", self._restore_dense)

    def _load_rewind(self) -> Weights:
        weights = self._load_dense().rewind
        assert weights is not None
        return weights

    def _make_dense(self) -> None:
        """Train the dense network where the recipe does, measure it, and check that it is fit for
        pruning.
        """
        cost = self.costs.dense
        with self.ledger.enter("baseline", "dense", cost, self._restore_dense) as unfinished:
            if unfinished:
                model = self._build_initial()
                initial = copy_state(model) if self._prunes_untrained else None
                rewind: Weights | None = self.networks.rewind
                if self.recipe.train is not None:
                    rewind = self.trainer.train_dense_(model, self.recipe.train)
                stage = DenseStage(
                    model=model.state_dict(),
                    measured=self._measure(model),
                    initial=initial,
                    rewind=rewind,
                )
                self.ledger.finish("dense", stage.tensors())
        self._check_dense()

    def _check_dense(self) -> None:
        """Refuse a dense network that is no baseline; warn where it is a poor one, or where its
        errors on validation and test images are not those of one network on images alike.
        """
        trained = self.recipe.train is not None
        refuse_non_finite(self.given_measured, self.data, self.dense)
        check_baseline(self.given_measured, self.data, trained=trained, warn=self.ledger.warn)
        measured = self.given_measured.document()
        if self.networks.initial is not None and not trained and self.data.val_from_train:
            self.ledger.warn(
                "the validation images were set aside from train: if the uploaded network was "
                "trained on them, its error there is lower than on new images (as given: "
                f"validation {wording.percent_with_interval(measured.val_error, 2)}, test "
                f"{wording.percent_with_interval(measured.error, 2)})"
            )
        else:
            compare_splits(measured.val_error, measured.error, warn=self.ledger.warn)

    def _run_rounds(self, index: int, criterion: Method, label: str) -> None:
        """Prune and retrain round by round with one criterion, the recipe's at `index`."""
        before: RoundStage | None = None
        for planned in plan_rounds(self.recipe, self.costs.given):
            current = CriterionRound.of(self.costs, index, criterion, label, planned)
            before = self._finish_round(current, before)
            record = self._record_round(current, before)
            self.done.append(record)
            if planned.target is not None:
                self.target_done(record)

    def _finish_round(self, current: CriterionRound, before: RoundStage | None) -> RoundStage:
        """Run a round after its control, from the stage `before`, unless it is finished."""
        planned = current.planned
        self.control_trainer.prepare(planned.number)
        cost = self.costs.round(current.criterion, planned)
        with self.ledger.enter("prune", current.name, cost, current.restore) as unfinished:
            if unfinished:
                try:
                    self._run_round(current, None if planned.restart else before)
                except PRUNING_ERRORS as error:
                    raise type(error)(
                        f"{current.label}, round {planned.number}: {error}", pointer=error.pointer
                    ) from error
        return self.ledger.restore(current.name, current.restore)

    def _run_round(self, current: CriterionRound, before: RoundStage | None) -> None:
        """Prune, measure, retrain and save a round, from the stage before or the dense network."""
        planned, seed = current.planned, self.recipe.seed
        model, masks = self._start_round(before)
        loss_before = self._measure_training_losses(model)
        masks, stage_losses = self.pruner.prune_(model, masks, current)
        loss_after = self._measure_training_losses(model)
        untrained: State | None = None
        batchnorm: dict[str, float] | None = None
        if self._prunes_untrained:
            untrained = copy_state(model)
        elif self.recipe.batchnorm == "reestimate":
            batchnorm = reestimate_(model, self.data, seed, planned.number)
            self.ledger.advance(self.costs.batchnorm)
        pruned = self._measure(self._compact(model, masks, current.method.compacts))
        kept = keeps_unretrained(self.recipe, planned, read=reads_unretrained(self.recipe))
        unretrained = copy_state(model) if kept else None
        retrained = self._retrain_(model, masks, current)
        stage = RoundStage(
            masks=masks,
            model=model.state_dict(),
            pruned=pruned,
            retrained=retrained,
            loss_before=loss_before,
            loss_after=loss_after,
            untrained=untrained,
            unretrained=unretrained,
            stages=stage_losses,
            batchnorm=batchnorm,
        )
        self.ledger.finish(current.name, stage.tensors(), stage.notes())

    def _start_round(self, before: RoundStage | None) -> tuple[nn.Module, Masks]:
        """The network and masks that a round starts from: those of the stage `before`, or the dense
        network. A job that prunes before training goes on from weights that were never trained.
        """
        if before is None:
            dense = self._load_dense()
            model = self.network(dense.initial or dense.model)
            return model, self.build_start_masks(model)
        model = self.network(before.untrained or before.model)
        return model, {name: mask.to(self.device) for name, mask in before.masks.items()}

    def _retrain_(self, model: nn.Module, masks: Masks, current: CriterionRound) -> Measured | None:
        """Retrain in place as the round does, and measure; None where it does not retrain."""
        planned, compacts = current.planned, current.method.compacts
        if planned.epochs is None:
            return None
        self.watcher.stage("retrain", current.name)
        self.trainer.retrain_(
            model,
            current.name,
            epochs=planned.epochs,
            number=planned.number,
            masks=masks,
            compacts=compacts,
        )
        return self._measure(self._compact(model, masks, compacts))

    def _measure_training_losses(self, model: nn.Module) -> Tensor | None:
        """The losses on training images; None where no evaluation of the job reads them."""
        if not self.costs.reads_losses:
            return None
        losses = measure_training_losses(model, self.data, self.recipe.seed)
        self.ledger.advance(len(losses))
        return losses

    def _measure(self, model: nn.Module) -> Measured:
        return measure_network(model, self.data, self.ledger.advance)

    def _compact(self, model: nn.Module, masks: Masks, compacts: bool) -> nn.Module:
        """The network as it is shipped: without the channels that are removed as a whole."""
        return build_compact(model, masks, self.data.shape) if compacts else model

    def _record_round(self, current: CriterionRound, stage: RoundStage) -> RoundRecord:
        """The record of a finished round, which loads masks and networks from its stage on use."""
        planned, compacts = current.planned, current.method.compacts
        stored = RoundLoader(
            stage=stage,
            build=self.network,
            compact=partial(self._compact, compacts=compacts),
        )
        kept = density(stored.masks())
        return RoundRecord(
            criterion=current.criterion,
            label=current.label,
            round=planned.number,
            sparsity=1.0 - kept,
            density=kept,
            target=planned.target,
            budget=Asked.find(self.recipe.targets, planned.target),
            retrain_epochs=planned.trained_epochs,
            stored=stored,
            pruned=stage.pruned,
            retrained=stage.retrained,
            compacted=compacts,
            stages=tuple(stage.stages),
            batchnorm=stage.batchnorm,
        )

    def _build_initial(self) -> nn.Module:
        """The network before any training of the job, on the job's device."""
        model = self._build_network()
        if self.networks.initial is not None:
            load_weights_(model, self.networks.initial)
        return model.to(self.device)

    def _build_network(self) -> nn.Module:
        """The architecture as the job's seed initialises it."""
        initialisation = generator(self.recipe.seed, "initialisation")
        with seeded(int(torch.randint(2**62, (1,), generator=initialisation))):
            return self.networks.build()
