"""What an evaluation sees of a job, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from pruning.data.cache import TensorCache
from pruning.data.tensors import Data
from pruning.errors import ParameterError
from pruning.measure import Measured
from pruning.round import StageLoss
from pruning.schemas.recipe import Method, Recipe
from pruning.schemas.report import Section
from pruning.types import Masks


@dataclass(frozen=True)
class TrialRound:
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
    """What re-estimating BatchNorm did: see `pruning.batchnorm.reestimate_`."""
    full_size: Callable[[], nn.Module] | None = None
    """As `network`, in the shape of the dense network: channels that are gone there are zero here."""
    unretrained: Callable[[], nn.Module] | None = None
    """Of a target that was retrained after it, the network as it was measured right after pruning, in the same shape.

    None where the job prunes before training, and where no evaluation of the recipe reads it.
    """
    losses: Callable[[], tuple[Tensor, Tensor]] | None = None
    """Loss on each of a sample of training images, right before and right after this round's pruning."""

    @property
    def id(self) -> str:
        """Of a target, the checkpoint's id: `magnitude-0.95`, unique within a job, safe in a URL."""
        return f"{self.label}-{self.target!r}"

    @property
    def measured(self) -> Measured:
        """The network as it would be shipped."""
        return self.retrained or self.pruned


NO_SEPARATE = "No independently trained network: the job does not train its network itself (model.train)."


@dataclass(frozen=True)
class Trial:
    """Everything an evaluation may look at."""

    data: Data
    dense: Callable[[], nn.Module]
    control: Callable[[], nn.Module]
    given_measured: Measured
    control_measured: Measured
    rounds: Sequence[TrialRound]
    recipe: Recipe
    sections: Mapping[str, Section] = field(default_factory=dict)
    """Of evaluations that are done already, by name."""
    separate: Callable[[], nn.Module | None] = lambda: None
    """A second dense network, trained from another seed; None where the job does not train its network."""
    cache: TensorCache | None = None
    """Where what is dear to make is kept for later jobs."""
    memo: dict[Any, Tensor] = field(default_factory=dict)
    """What one evaluation measured and another may use."""
    advance: Callable[[int], None] = lambda images: None
    """To be told of so many images through a network: a job that is silent for long counts as stuck."""

    @property
    def seed(self) -> int:
        """The job's, for what is drawn in an evaluation."""
        return self.recipe.seed

    @property
    def pruned_untrained(self) -> bool:
        """Whether the job prunes before it trains."""
        return self.recipe.when == "before_training"


class Evaluation(Protocol):
    """One question asked of all networks of a job.

    Optional class attributes: `reads` names evaluations whose sections it reads, which are done before it; `of_pixels` is
    True where it knows segmentation, else it is left out there, and refused where it is asked for; `asked_only` is True
    where it runs only if a recipe names it. One with `units` says what it costs; see `pruning.scale`.
    """

    version: ClassVar[int]

    def evaluate(self, trial: Trial) -> Section:
        """The answer."""


@runtime_checkable
class Conditional(Protocol):
    """An evaluation that not every job has a use for: where the recipe lists none, it runs only where it applies."""

    def applies(self, trial: Trial) -> bool:
        """Whether it has something to say of this job."""


def asked_only(evaluation: Evaluation | type[Evaluation]) -> bool:
    """Whether it takes so long that it has to be asked for by name."""
    return bool(getattr(evaluation, "asked_only", False))


def fits_task(evaluation: object, *, segmentation: bool) -> bool:
    """Whether it knows the labels of the job: all know those of images, some those of pixels."""
    return not segmentation or bool(getattr(evaluation, "of_pixels", False))


def applies(evaluation: Evaluation, trial: Trial) -> bool:
    """Whether an evaluation that was not asked for by name should run."""
    if asked_only(evaluation) or not fits_task(evaluation, segmentation=trial.data.segmentation):
        return False
    return not isinstance(evaluation, Conditional) or evaluation.applies(trial)


def check_task(evaluation: object, name: str, *, segmentation: bool, pointer: str | None = None) -> None:
    """Raise `ParameterError` for an evaluation of one answer an image that is asked of a segmentation job."""
    if not fits_task(evaluation, segmentation=segmentation):
        raise ParameterError(f"the evaluation {name!r} is of networks that name one class an image; for segmentation there "
                             "are accuracy, comparison, robustness, prune_potential and noise_similarity", pointer=pointer)
