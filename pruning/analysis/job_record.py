"""The record of a finished job that evaluations read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from pruning.analysis.fast_answers import FastClassifiers
from pruning.data.tensors import Data
from pruning.measurement.measure import Measured
from pruning.rounds.pruning import StageLoss
from pruning.schemas.recipe import UPLOADED, Method, Recipe
from pruning.schemas.report import Section
from pruning.schemas.targets import Quantity, Targets
from pruning.storage.tensor_cache import TensorCache
from pruning.types import Masks


class StoredRound(Protocol):
    """The masks, networks and losses of a finished round, loaded anew by each call."""

    def masks(self) -> Masks:
        """The masks after the round."""

    def network(self) -> nn.Module:
        """The network as it was measured last: retrained where the recipe retrains, and without
        the channels that are removed as a whole where the round compacts.
        """

    def full_size(self) -> nn.Module:
        """The same network in the shape of the dense network: removed channels are zero."""

    def unretrained(self) -> nn.Module | None:
        """The network right after pruning, as it was measured and in the shape of the dense
        network.

        It is kept for a target that is retrained after it, in a job that prunes after training,
        where an evaluation of the recipe reads it; else None.
        """

    def losses(self) -> tuple[Tensor, Tensor]:
        """The losses on each of a sample of training images, right before and right after the
        round's pruning; float32 (n,) both.
        """


@dataclass(frozen=True)
class Asked:
    """A budget, or a limit on the error, as it was asked for."""

    quantity: Quantity
    value: float
    """A share of what the dense network has, or a whole number; of a limit on the error the limit.
    """

    @staticmethod
    def find(targets: Targets, target: float | None) -> Asked | None:
        """The budget that a round ends at; None where it ends at none."""
        if target is None or not targets.are_budgets:
            return None
        return Asked(targets.quantity, targets.find_asked(target))


@dataclass(frozen=True, kw_only=True)
class SearchFinding:
    """The finding of a search for the sparsest network within a limit on the error."""

    increase: float
    """The validation error of the network above that of its control."""
    next_sparsity: float | None
    """The next step of the search, which the limit does not allow; None where there is none."""
    tried: int
    """The networks that were tried for all limits."""


@dataclass(frozen=True, kw_only=True)
class OwnArchitecture:
    """The architecture of a network that was pruned elsewhere, where it is another one than that
    of the dense network, or cut out of it.
    """

    architecture: str
    kwargs: dict[str, Any]
    has_arch: bool
    """Whether it was cut out of that architecture, as its `arch.json` says."""
    parameters: int
    """The parameters that remain: its own less its zeros among prunable weights."""


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """A prune-and-retrain round of a job with its measurements, or a network that was pruned
    elsewhere.
    """

    criterion: Method
    label: str
    round: int
    sparsity: float
    density: float
    target: float | None
    """The requested sparsity where this round is a target; of a budget the share that goes; of a
    network that was pruned elsewhere its sparsity to a percent, by which it is compared.
    """
    retrain_epochs: int
    """The epochs of retraining that the weights have had since they were given or rewound."""
    stored: StoredRound
    """Loads masks, networks and losses."""
    pruned: Measured
    """The network right after pruning, measured."""
    retrained: Measured | None
    """The network after retraining, measured; None where the recipe does not retrain."""
    compacted: bool = False
    """Whether removed channels are gone from the network, not only zero."""
    stages: tuple[StageLoss, ...] = ()
    """The change of the loss at each stage of the pruning, as a loss model predicted it and as
    measured.
    """
    budget: Asked | None = None
    """The budget, or the limit on the error, where this round is a target and the job has such."""
    is_tried: bool = False
    """Whether a search tried this network, which was retrained as those of targets are."""
    finding: SearchFinding | None = None
    """The finding of the search that chose this network; None where none did."""
    batchnorm: Mapping[str, float] | None = None
    """The effect of re-estimating BatchNorm, see `pruning.training.batchnorm.reestimate_`."""
    own_architecture: OwnArchitecture | None = None
    """The architecture of a network where it is not that of the dense one; its masks are then of
    its own weights.
    """

    @property
    def id(self) -> str:
        """The id of a target's checkpoint: `magnitude-0.95`, `magnitude-flops-0.5`,
        `magnitude-max_error_increase-0.01`, or the name of a network that was pruned elsewhere;
        unique within a job, safe in a URL.
        """
        if self.criterion.name == UPLOADED:
            return self.label
        if self.budget is not None:
            return f"{self.label}-{self.budget.quantity}-{self.budget.value!r}"
        return f"{self.label}-{self.target!r}"

    @property
    def measured(self) -> Measured:
        """The measurements of the network as it would be shipped."""
        return self.retrained or self.pruned

    def masks(self) -> Masks:
        """Load the masks after this round."""
        return self.stored.masks()

    def count_removed(self, parameters: int) -> int:
        """Count the parameters that are gone of the dense network, which has so many."""
        if self.own_architecture is not None:
            return parameters - self.own_architecture.parameters
        return sum(int((~mask).sum()) for mask in self.masks().values())

    def network(self) -> nn.Module:
        """Load the network as it was measured last."""
        return self.stored.network()

    def full_size(self) -> nn.Module:
        """Load the same network in the shape of the dense network."""
        return self.stored.full_size()

    def unretrained(self) -> nn.Module | None:
        """Load the network right after pruning; None where it was not kept."""
        return self.stored.unretrained()

    def losses(self) -> tuple[Tensor, Tensor]:
        """Load the losses on training images right before and right after this round's pruning."""
        return self.stored.losses()


@dataclass(frozen=True, kw_only=True)
class ControlRecord:
    """A dense control of a job with its measurements: the dense network after the retrainings that
    some rounds have had, or the dense network itself where nothing is retrained.
    """

    name: str
    """The name in reports: `control` for the one with the fewest retrainings, `control-5` for one
    with five.
    """
    rounds: tuple[int, ...]
    """The numbers of the rounds that are compared with it."""
    retrainings: int
    """The number of retrainings it has had."""
    retrain_epochs: int
    """The epochs of all its retrainings."""
    measured: Measured
    network: Callable[[], nn.Module]
    """Loads the network."""


def find_control(
    controls: Sequence[ControlRecord], round_record: RoundRecord
) -> ControlRecord | None:
    """The control that a round is compared with; None where it was not measured."""
    for control in controls:
        if round_record.round in control.rounds:
            return control
    return None


NO_SEPARATE = (
    "No independently trained network: the job does not train its network itself (model.train)."
)
"""The note of an evaluation for which `JobRecord.separate` has no network."""


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """A finished job: everything that an evaluation may read."""

    data: Data
    dense: Callable[[], nn.Module]
    """Loads the dense network as given, or as the job trained it."""
    given_measured: Measured
    """The measurements of the network that `dense` loads."""
    controls: Sequence[ControlRecord]
    """The dense controls, those with fewer retrainings first; at least one."""
    rounds: Sequence[RoundRecord]
    recipe: Recipe
    sections: Mapping[str, Section] = field(default_factory=dict)
    """The sections of evaluations that are done already, by name."""
    separate: Callable[[], nn.Module | None] = lambda: None
    """Trains or loads a second dense network, from another seed; None where the job does not train
    its network.
    """
    cache: TensorCache | None = None
    """The cache of tensors that are expensive to compute, shared with later jobs."""
    memo: dict[Any, Tensor] = field(default_factory=dict)
    """Measurements of one evaluation that others may use."""
    classifiers: FastClassifiers = field(default_factory=FastClassifiers)
    """The networks that answered images under shift, for further evaluations."""
    advance: Callable[[int], None] = lambda images: None
    """Reports progress: to be called with the number of images that went through a network. A job
    that is silent for long counts as stuck.
    """

    @property
    def seed(self) -> int:
        """The job's seed, for the random draws of an evaluation."""
        return self.recipe.seed

    @property
    def control(self) -> ControlRecord:
        """The dense control with the fewest retrainings."""
        return self.controls[0]

    def find_control(self, round_record: RoundRecord) -> ControlRecord | None:
        """The dense control that has been retrained as the round has; None for a round between
        targets whose control was not measured.
        """
        return find_control(self.controls, round_record)

    @property
    def pruned_untrained(self) -> bool:
        """Whether the job prunes before it trains."""
        return self.recipe.when == "before_training"
