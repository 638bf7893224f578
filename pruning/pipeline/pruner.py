"""The prunings of a job: of the network of each round, by a criterion of the recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from pruning.data.tensors import Data
from pruning.masks import density, find_collapsed
from pruning.pipeline.ledger import Ledger
from pruning.pipeline.stage_files import RoundStage
from pruning.rounds.budgets import Counter, Gauge
from pruning.rounds.costs import Costs
from pruning.rounds.method import PruningMethod
from pruning.rounds.plan import PlannedRound
from pruning.rounds.pruning import StageLoss, prune_
from pruning.rounds.round_evidence import collect_evidence
from pruning.schemas.recipe import Method, Recipe
from pruning.seeding import generator
from pruning.storage.stages import StoredStage
from pruning.types import Masks


@dataclass(frozen=True, kw_only=True)
class CriterionRound:
    """A planned round of a criterion of the recipe."""

    name: str
    """The name of the stage it is saved as."""
    planned: PlannedRound
    criterion: Method
    label: str
    method: PruningMethod
    restore: Callable[[StoredStage], RoundStage]
    """Reads its stage from a file."""

    @staticmethod
    def of(
        costs: Costs, index: int, criterion: Method, label: str, planned: PlannedRound
    ) -> CriterionRound:
        """A planned round of the criterion at `index` of the recipe that has these costs."""
        return CriterionRound(
            name=f"round-{index}-{planned.number:03d}",
            planned=planned,
            criterion=criterion,
            label=label,
            method=PruningMethod.of(costs.recipe, criterion),
            restore=partial(
                RoundStage.restore,
                untrained=costs.recipe.when == "before_training",
                retrained=planned.retrained,
                losses=costs.reads_losses,
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Pruner:
    """Prunes the networks of a job in place."""

    recipe: Recipe
    data: Data
    ledger: Ledger
    costs: Costs
    gauge: Gauge | None = None
    """The gauge of the job's budgets; None where its targets are sparsities."""

    def prune_(
        self, model: nn.Module, masks: Masks, current: CriterionRound
    ) -> tuple[Masks, list[StageLoss]]:
        """Prune in place to the density of the round, and return the new masks and, by stage, what
        a loss model says.
        """
        planned, method = current.planned, current.method
        _, units = self.costs.pruning(current.criterion, planned)
        stage_losses: list[StageLoss] = []

        def note_stage(stage_loss: StageLoss | None) -> None:
            self.ledger.advance(units)
            if stage_loss is not None:
                stage_losses.append(stage_loss)

        def warn(message: str) -> None:
            self.ledger.warn(f"{current.label}, round {planned.number}: {message}")

        start = density(masks)
        if planned.density == planned.start:
            return masks, stage_losses  # the network came as sparse as the target
        counter = None
        if self.gauge is not None:
            counter = Counter.of(self.gauge, model, current.criterion, method)
        else:
            self._warn_of_cautions(current, start, planned.density)
        masks = prune_(
            model,
            masks,
            planned.density,
            method,
            collect_evidence(model, self.recipe, self.data, method, planned.number),
            counter=counter,
            on_stage=note_stage,
            # The work is counted with its stage; until then the job tells that it is alive.
            on_measured=lambda images: self.ledger.advance(0),
            warn=warn,
            generator=generator(self.recipe.seed, "sparsifier", planned.number),
        )
        if counter is not None:
            self._warn_of_cautions(current, start, density(masks))
        if density(masks) == start:
            reason = (
                "what goes together is larger than the step"
                if counter is None
                else "with it the network keeps to the budget"
            )
            warn(f"nothing was removed: the density is {start:.4g} already, and {reason}")
        for layer in find_collapsed(masks):
            warn(f"layer collapse: nothing remains of {layer}")
        return masks, stage_losses

    def _warn_of_cautions(self, current: CriterionRound, start: float, target: float) -> None:
        """Warn of what a user should know about a round from density `start` to `target`, once in a
        job.
        """
        cautions = current.method.list_cautions(start, target, self.recipe.retrain.mode)
        for caution in cautions:
            message = f"{current.label}: {caution}"
            if message not in self.ledger.warnings:
                self.ledger.warn(message)
