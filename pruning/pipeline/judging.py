"""A job that judges networks which were pruned elsewhere: each stands where a round of pruning
does, and nothing is pruned or trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from pruning.analysis.applicability import asks_how_pruned
from pruning.analysis.job_record import OwnArchitecture, RoundRecord
from pruning.errors import EvidenceError
from pruning.evaluations import evaluations
from pruning.masks import count_parameters, find_prunable
from pruning.networks.loading import load_weights_
from pruning.pipeline.pipeline import Pipeline
from pruning.pipeline.stage_files import RoundStage, Weights
from pruning.rounds.plan import plan_rounds
from pruning.schemas.recipe import Method, Recipe
from pruning.types import Masks


def leave_out_unfit(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """The recipe without the evaluations that it lists and that ask how networks were pruned, where
    the job prunes nothing; and a warning for each.
    """
    if recipe.prunes or not recipe.names_evaluations:
        return recipe, []
    known = evaluations.names()
    unfit = [
        method.name
        for method in recipe.named_evaluations
        if method.name in known and asks_how_pruned(evaluations.get(method.name))
    ]
    kept = tuple(method for method in recipe.named_evaluations if method.name not in unfit)
    warnings = [
        f"the evaluation {name!r} is left out: it asks how networks were pruned, and this job is "
        "given networks that were pruned elsewhere"
        for name in unfit
    ]
    return recipe.model_copy(update={"evaluations": kept}), warnings


@dataclass(frozen=True, kw_only=True)
class PrunedNetwork:
    """A network that was pruned elsewhere."""

    name: str
    build: Callable[[], nn.Module]
    """Builds it without its weights."""
    load: Callable[[], Mapping[str, Tensor]]
    """Loads the weights as they were uploaded."""
    architecture: str
    kwargs: Mapping[str, object]
    is_other: bool = False
    """Whether its architecture is not that of the dense network."""
    has_arch: bool = False
    """Whether an `arch.json` came with it, without which it cannot be built."""


@dataclass(frozen=True, kw_only=True)
class JudgedNetwork:
    """Loads a network that was judged; a `pruning.analysis.job_record.StoredRound`."""

    stage: RoundStage
    build: Callable[[Weights], nn.Module]
    is_aligned: bool
    """Whether its weights lie where those of the dense network do."""

    def masks(self) -> Masks:
        """Load the masks: False where a prunable weight of it is zero."""
        return dict(self.stage.masks.items())

    def network(self) -> nn.Module:
        """Load the network."""
        return self.build(self.stage.model)

    def full_size(self) -> nn.Module:
        """Load the network in the shape of the dense network.

        Raises `EvidenceError` for one of another architecture.
        """
        if not self.is_aligned:
            raise EvidenceError("the network has another architecture than the dense one")
        return self.network()

    def unretrained(self) -> nn.Module | None:
        """Return None: what the network was before its retraining is not known."""
        return None

    def losses(self) -> tuple[Tensor, Tensor]:
        """The losses of the dense network and of this one, float32 (n,) both.

        Raises `EvidenceError` where the job did not measure them.
        """
        return self.stage.read_losses()


@dataclass(kw_only=True)
class Judging(Pipeline):
    """The stages of a job that judges networks: in place of rounds it measures each of them."""

    pruned: tuple[PrunedNetwork, ...]
    """The networks, one for each criterion of the recipe."""

    def _run_rounds(self, index: int, criterion: Method, label: str) -> None:
        """Measure the network at `index`."""
        network = self.pruned[index]
        (planned,) = plan_rounds(self.recipe)
        self.control_trainer.prepare(planned.number)
        name = f"round-{index}-{planned.number:03d}"
        restore = partial(
            RoundStage.restore, untrained=False, retrained=False, losses=self.costs.reads_losses
        )
        cost = self.costs.round(criterion, planned)
        with self.ledger.enter("evaluate", name, cost, restore) as unfinished:
            if unfinished:
                stage = self._judge(network)
                self.ledger.finish(name, stage.tensors(), stage.notes())
        record = self._record_network(network, criterion, self.ledger.restore(name, restore))
        self.done.append(record)
        self.target_done(record)

    def _judge(self, network: PrunedNetwork) -> RoundStage:
        """Measure a network as it was uploaded; its zeros are its masks."""
        model = self._load(network, network.load())
        loss_before = self._measure_training_losses(self.dense())
        loss_after = self._measure_training_losses(model)
        return RoundStage(
            masks={name: weight != 0 for name, weight in self._find_prunable(model).items()},
            model=model.state_dict(),
            pruned=self._measure(model),
            loss_before=loss_before,
            loss_after=loss_after,
        )

    def _record_network(
        self, network: PrunedNetwork, criterion: Method, stage: RoundStage
    ) -> RoundRecord:
        """The record of a network that was measured."""
        stored = JudgedNetwork(
            stage=stage,
            build=partial(self._load, network),
            is_aligned=not network.is_other,
        )
        masks = stored.masks()
        kept = sum(int(mask.sum()) for mask in masks.values())
        prunable = sum(weight.numel() for weight in self._find_prunable(self.dense()).values())
        own_architecture = None
        if network.is_other:
            zeros = sum(mask.numel() for mask in masks.values()) - kept
            own_architecture = OwnArchitecture(
                architecture=network.architecture,
                kwargs=dict(network.kwargs),
                has_arch=network.has_arch,
                parameters=count_parameters(stored.network()) - zeros,
            )
        density = kept / prunable
        return RoundRecord(
            criterion=criterion,
            label=network.name,
            round=1,
            sparsity=1.0 - density,
            density=density,
            target=round(1.0 - density, 2),
            retrain_epochs=0,
            stored=stored,
            pruned=stage.pruned,
            retrained=None,
            own_architecture=own_architecture,
        )

    def _load(self, network: PrunedNetwork, weights: Weights) -> nn.Module:
        """A network with these weights, in eval mode on the job's device."""
        model = network.build()
        load_weights_(model, weights)
        return model.to(self.device).eval()

    def _find_prunable(self, model: nn.Module) -> Mapping[str, Tensor]:
        return find_prunable(model, self.recipe.exclude, self.recipe.include)
