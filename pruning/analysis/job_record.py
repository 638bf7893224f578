"""What an evaluation sees of a job, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from pruning.data.tensors import Data
from pruning.measurement.measure import Measured
from pruning.rounds.pruning import StageLoss
from pruning.schemas.recipe import Method, Recipe
from pruning.schemas.report import Section
from pruning.storage.tensor_cache import TensorCache
from pruning.types import Masks


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """One prune-and-retrain round of a job, measured."""

    criterion: Method
    label: str
    round: int
    sparsity: float
    density: float
    target: float | None
    """The requested sparsity when this round is a target."""
    retrain_epochs: int
    """Epochs of retraining that the weights have had since they were given or rewound."""
    masks: Callable[[], Masks]
    network: Callable[[], nn.Module]
    """Loads the network as it was measured last (retrained where the recipe retrains)."""
    pruned: Measured
    retrained: Measured | None
    compacted: bool = False
    """Whether removed channels are gone from the network, not only zero."""
    stages: tuple[StageLoss, ...] = ()
    """What a loss model predicted at each stage of the pruning, and what came of it."""
    batchnorm: Mapping[str, float] | None = None
    """What re-estimating BatchNorm did: see `pruning.training.batchnorm.reestimate_`."""
    full_size: Callable[[], nn.Module] | None = None
    """As `network`, in the shape of the dense network: channels that are gone there are zero here.
    """
    unretrained: Callable[[], nn.Module] | None = None
    """Of a target that was retrained after it, the network as it was measured right after pruning,
    in the same shape.

    None where the job prunes before training, and where no evaluation of the recipe reads it.
    """
    losses: Callable[[], tuple[Tensor, Tensor]] | None = None
    """Loss on each of a sample of training images, right before and right after this round's
    pruning.
    """

    @property
    def id(self) -> str:
        """Of a target, the checkpoint's id: `magnitude-0.95`, unique within a job, safe in a
        URL.
        """
        return f"{self.label}-{self.target!r}"

    @property
    def measured(self) -> Measured:
        """The network as it would be shipped."""
        return self.retrained or self.pruned


NO_SEPARATE = (
    "No independently trained network: the job does not train its network itself (model.train)."
)


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """Everything an evaluation may look at."""

    data: Data
    dense: Callable[[], nn.Module]
    control: Callable[[], nn.Module]
    given_measured: Measured
    control_measured: Measured
    rounds: Sequence[RoundRecord]
    recipe: Recipe
    sections: Mapping[str, Section] = field(default_factory=dict)
    """Of evaluations that are done already, by name."""
    separate: Callable[[], nn.Module | None] = lambda: None
    """A second dense network, trained from another seed; None where the job does not train its
    network.
    """
    cache: TensorCache | None = None
    """Where what is dear to make is kept for later jobs."""
    memo: dict[Any, Tensor] = field(default_factory=dict)
    """What one evaluation measured and another may use."""
    advance: Callable[[int], None] = lambda images: None
    """To be told of so many images through a network: a job that is silent for long counts as
    stuck.
    """

    @property
    def seed(self) -> int:
        """The job's, for what is drawn in an evaluation."""
        return self.recipe.seed

    @property
    def pruned_untrained(self) -> bool:
        """Whether the job prunes before it trains."""
        return self.recipe.when == "before_training"
