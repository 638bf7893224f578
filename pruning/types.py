"""The four seams of a pruning method, and what passes between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

from torch import Generator, Tensor, nn

from pruning.errors import BudgetError

if TYPE_CHECKING:
    pass

Scores: TypeAlias = dict[str, Tensor]
"""By parameter name; each broadcasts against its weight, higher keeps, -inf marks what is pruned
already.
"""
Masks: TypeAlias = dict[str, Tensor]
"""By parameter name, shaped as the parameter, True keeps.

Masks of more than one dimension are those of prunable weights; a mask of one dimension belongs to a
bias or a BatchNorm of channels that are removed as a whole, and counts neither for sparsity nor for
density.
"""
Keeps: TypeAlias = dict[str, int]
"""By parameter name: how many weights remain."""
Shape: TypeAlias = tuple[int, int, int]
"""Channels, height and width of an image."""
Task: TypeAlias = Literal["classification", "segmentation"]
"""What is told of an image: one class, or one of every pixel."""


@dataclass(frozen=True)
class Budget:
    """How many weights may remain in all, and how many each layer has."""

    keep: int
    sizes: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """The shapes of the network's weights in its order, of those too that are left dense, where the
    layers are weights.
    """
    signs: Mapping[str, Tensor] = field(default_factory=dict)
    """-1, 0 and 1 for the weights, where the layers are weights."""

    @property
    def total(self) -> int:
        """All prunable weights."""
        return sum(self.sizes.values())

    def spent(self, keeps: Keeps) -> Keeps:
        """The counts of an allocation, or `BudgetError` where it keeps too much."""
        if sum(keeps.values()) > self.keep:
            raise BudgetError(
                f"the allocation keeps {sum(keeps.values())} weights, the budget is {self.keep}"
            )
        return keeps


@dataclass(frozen=True)
class DrawLaw:
    """How a layer's terms were drawn, with replacement: what an error bound of the draws needs to
    know.
    """

    probabilities: Tensor
    """float64: of single weights (2 out, K), a row for the positive weights of each filter, then
    one for the negative ones of each; of whole input channels (1, in), or a row for each of the
    groups, drawn one by one, that a layer reads, 0 at the channels of the others. 0 for what cannot
    be drawn, 1 for what is there for certain; the others of a row sum to 1, but where a flattening
    spreads a channel over several inputs.
    """
    draws: Tensor
    """int64, one number for each row; -1 where what can be drawn was kept as it is and nothing
    drawn.
    """
    repeats: int = 1
    """So many times a row was drawn, and one of them chosen."""


@dataclass(frozen=True)
class Sparse:
    """A layer after sparsification: its mask, and its weight (a sampler reweights what it
    keeps).
    """

    mask: Tensor
    weight: Tensor
    law: DrawLaw | None = None
    """How it was drawn, where it was."""


@dataclass(frozen=True)
class Calibration:
    """The training images a criterion asks for, without augmentation."""

    images: int = 1000
    balanced: bool = False
    """As many of every class."""


class Allocation(Protocol):
    """One budget over layers."""

    def allocate(self, scores: Scores, budget: Budget) -> Keeps:
        """How many weights each layer keeps; the counts add up to at most `budget.keep`."""


class Sparsifier(Protocol):
    """How one layer spends its share."""

    def sparsify(self, weight: Tensor, score: Tensor, keep: int, generator: Generator) -> Sparse:
        """The layer with `keep` weights left."""


@dataclass(frozen=True)
class LayerView:
    """What a sparsifier may see of the layer it sparsifies."""

    positions: int
    """Of the layer's output for one image."""
    patches: Callable[[], Tensor]
    """What its outputs see of held-out calibration images, (N, G, K, L) as of
    `pruning.networks.layers`, or `EvidenceError`.
    """


@runtime_checkable
class LooksAtInputs(Protocol):
    """A sparsifier that looks at the layer's inputs or outputs, where it can."""

    def sparsify_seeing(
        self, weight: Tensor, score: Tensor, keep: int, generator: Generator, view: LayerView
    ) -> Sparse:
        """The layer with `keep` weights left."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is known when scores become masks."""

    model: nn.Module
    weights: Mapping[str, Tensor]
    scores: Scores
    """-inf marks what is pruned already."""
    masks: Masks
    """Before this selection."""
    density: float
    """Fraction of all prunable weights that shall remain."""
    allocation: Allocation
    sparsifier: Sparsifier
    generator: Generator
    shape: Callable[[], Shape]
    """The shape of an image, or `EvidenceError`."""
    view: Callable[[str], LayerView] | None = None
    """What a sparsifier may see, by weight name."""


@dataclass(frozen=True)
class Selected:
    """Masks nested in those before, and the weights that are more than masked (a sampler reweights
    what it keeps).
    """

    masks: Masks
    weights: dict[str, Tensor]
    left_dense: Mapping[str, str] = field(default_factory=dict)
    """Layers that the granularity cannot prune, each with its reason."""
    laws: Mapping[str, DrawLaw] = field(default_factory=dict)
    """By weight name, how the layers were drawn that a sampler drew; empty where nothing was drawn.
    """


class Granularity(Protocol):
    """What is removed together: single weights, blocks, N of M, channels.

    Two optional class attributes: `allocation`, which it takes whatever the criterion's own is, and
    `compacts`, True where what is removed leaves the network.
    """

    def select(self, selection: Selection) -> Selected:
        """The masks at the density asked for, or the nearest one below that can be had."""


class Schedule(Protocol):
    """Which densities lead from one to the next target."""

    def densities(self, start: float, target: float) -> Sequence[float]:
        """Strictly decreasing densities below `start`, the last of them exactly `target`."""


class Architecture(Protocol):
    """A named network; its fields are its hyper-parameters.

    Three optional attributes: `smallest`, the rows and columns below which an image of any size is
    too small; `task`, `segmentation` where it answers for every pixel (N, classes, H, W); and
    `member(depth, width)`, the parameters of the member of a family with this depth and width.
    """

    @property
    def input_shape(self) -> tuple[int | None, int | None, int | None]:
        """Channels, height and width it takes; None where any does."""

    @property
    def outputs(self) -> int:
        """Number of classes."""

    def build(self) -> nn.Module:
        """The network, freshly constructed.

        A submodule of it with `trains_alone = True` takes part in training and not in what the
        network answers.
        """
