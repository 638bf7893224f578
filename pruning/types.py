"""The interfaces of allocations, sparsifiers, granularities, schedules and architectures, and their
types.

The interfaces of criteria are in `pruning.evidence.criterion`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from torch import Generator, Tensor, device, nn

from pruning.errors import BudgetError

Scores: TypeAlias = dict[str, Tensor]
"""Scores by parameter name.

Each broadcasts against its weight; higher keeps, and -inf marks what is pruned already.
"""
Masks: TypeAlias = dict[str, Tensor]
"""Masks by parameter name, shaped as the parameter; True keeps.

Masks of more than one dimension are those of prunable weights; a mask of one dimension belongs to a
bias or a BatchNorm of channels that are removed as a whole, and counts neither for sparsity nor for
density.
"""
Keeps: TypeAlias = dict[str, int]
"""The number of weights that remain, by parameter name."""
Shape: TypeAlias = tuple[int, int, int]
"""Channels, height and width of an image."""
Task: TypeAlias = Literal["classification", "segmentation"]
"""The prediction for an image: one class, or one class for every pixel."""


@dataclass(frozen=True)
class Budget:
    """The number of weights that may remain in all, and the sizes of the layers."""

    keep: int
    sizes: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """The shapes of the network's weights in its order, where the layers are weights.

    Weights that are left dense are among them.
    """
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    """The weights, where the layers are weights: their signs distinguish the two sides of a
    filter.
    """

    @property
    def total(self) -> int:
        """The number of all prunable weights."""
        return sum(self.sizes.values())

    def check_keeps(self, keeps: Keeps) -> Keeps:
        """Return the counts of an allocation; `BudgetError` where they keep too much."""
        if sum(keeps.values()) > self.keep:
            raise BudgetError(
                f"the allocation keeps {sum(keeps.values())} weights, the budget is {self.keep}"
            )
        return keeps


@dataclass(frozen=True)
class Override:
    """The sparsity that a layer is to have, whatever the allocation would give it."""

    sparsity: float
    """The fraction of the layer's units that is gone at the next target."""
    progress: float
    """The fraction of the way from the masks before to that target; 1 at the target."""
    pointer: str
    """The place of the override in the job."""

    def count(self, size: int, alive: int, *, ahead: bool = False) -> int:
        """Count the units that remain of `alive`, of a layer of `size`: at the target those that
        round the sparsity to the nearest whole number, before it in proportion, and where that is
        no whole number one more, or with `ahead` one less.

        Raises `BudgetError` where the target would leave none.

        >>> Override(0.5, 1.0, "").count(10, 10), Override(0.5, 0.5, "").count(10, 10)
        (5, 8)
        """
        last = size - round(self.sparsity * size)
        if last == 0:
            raise BudgetError(
                f"overrides: sparsity {self.sparsity:g} leaves none of {size}; at least one must "
                "remain",
                pointer=self.pointer,
            )
        removed = self.progress * max(0, alive - last)
        return alive - (math.ceil(removed) if ahead else math.floor(removed))


@dataclass(frozen=True)
class DrawLaw:
    """The law of a layer's draws with replacement, as error bounds of the draws need it."""

    probabilities: Tensor
    """The probability of each term in one draw, float64.

    For single weights (2 out, K), with a row for the positive weights of each filter, then a row
    for the negative ones of each. For whole input channels (1, in), or a row for each of the groups
    that a layer reads and that were drawn one by one, 0 at the channels of the other groups. 0 for
    what cannot be drawn, 1 for what is there for certain; the others of a row sum to 1, except
    where a flattening spreads a channel over several inputs.
    """
    draws: Tensor
    """The number of draws of each row, int64.

    -1 where nothing was drawn, because all that could be drawn was kept as it is.
    """
    repeats: int = 1
    """The number of times that a row was drawn, to choose one of them."""

    def to(self, device: device) -> DrawLaw:
        """The law with its tensors on a device."""
        return DrawLaw(self.probabilities.to(device), self.draws.to(device), self.repeats)


@dataclass(frozen=True)
class Sparse:
    """A layer after sparsification: its mask, and its weight, which a sampler reweights."""

    mask: Tensor
    weight: Tensor
    law: DrawLaw | None = None
    """The law by which the layer was drawn, if it was."""


@dataclass(frozen=True)
class Calibration:
    """The training images a criterion asks for, without augmentation."""

    images: int = 1000
    balanced: bool = False
    """Whether every class has as many images."""


class Allocation(Protocol):
    """A rule that divides one budget over layers."""

    def allocate(self, scores: Scores, budget: Budget) -> Keeps:
        """Return the number of weights each layer keeps; the sum is at most `budget.keep`."""


@dataclass(frozen=True)
class LossCurve:
    """The change of the loss when one layer, or one group of channels, is pruned alone."""

    kept: tuple[float, ...]
    """The fractions of what is alive that remain, below 1."""
    changes: tuple[float, ...]
    """The change of the mean loss at each, in nats."""


@runtime_checkable
class DividesByLosses(Protocol):
    """An allocation that divides the budget by measured curves of the loss: a pruning measures them
    on calibration images, at the network's current point.
    """

    levels: tuple[float, ...]
    """The fractions of what is alive of a layer that are removed alone."""
    images: int
    """The number of calibration images, at most."""
    steps: int
    """The stages of one pruning, at each of which losses are measured again."""

    def use_curves(self, curves: Mapping[str, LossCurve]) -> Allocation:
        """Return the allocation that divides by these curves, by name of the layer or group."""


class Sparsifier(Protocol):
    """A rule by which one layer spends its share."""

    def sparsify(self, weight: Tensor, score: Tensor, keep: int, generator: Generator) -> Sparse:
        """Return the layer with `keep` weights left."""


@dataclass(frozen=True)
class LayerView:
    """A view of the layer for its sparsifier."""

    positions: int
    """The number of positions of the layer's output for one image."""
    patches: Callable[[], Tensor]
    """Returns what the layer's outputs see of held-out calibration images.

    (N, G, K, L) as in `pruning.networks.layers`; raises `EvidenceError` without images.
    """


@runtime_checkable
class LooksAtInputs(Protocol):
    """A sparsifier that looks at the layer's inputs or outputs, where it can."""

    def sparsify_seeing(
        self, weight: Tensor, score: Tensor, keep: int, generator: Generator, view: LayerView
    ) -> Sparse:
        """Return the layer with `keep` weights left."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The arguments of a granularity: all that is known when scores become masks."""

    model: nn.Module
    weights: Mapping[str, Tensor]
    scores: Scores
    """-inf marks what is pruned already."""
    masks: Masks
    """The masks before this selection."""
    density: float
    """The fraction of all prunable weights that shall remain."""
    allocation: Allocation
    sparsifier: Sparsifier
    generator: Generator
    shape: Callable[[], Shape]
    """Returns the shape of an image, or raises `EvidenceError`."""
    view: Callable[[str], LayerView] | None = None
    """Returns what a sparsifier may see of the layer, by weight name."""
    overrides: Mapping[str, Override] = field(default_factory=dict)
    """The layers whose share is not the allocation's, by weight name.

    Only a granularity that `overrides` layers itself is given any.
    """
    known: dict[Hashable, Any] = field(default_factory=dict)
    """Findings about the structure of the network alone: selections of one network share them."""


@dataclass(frozen=True)
class Selected:
    """Masks nested in those before, and the weights that are more than masked.

    A sampler reweights what it keeps.
    """

    masks: Masks
    weights: dict[str, Tensor]
    left_dense: Mapping[str, str] = field(default_factory=dict)
    """Layers that the granularity cannot prune, each with its reason."""
    laws: Mapping[str, DrawLaw] = field(default_factory=dict)
    """The laws by which a sampler drew layers, by weight name; empty where nothing was drawn."""


class Granularity(Protocol):
    """A kind of units that are removed together: single weights, blocks, N of M, channels.

    It may have three class attributes: `allocation`, which it uses whatever the criterion's own is,
    `compacts`, True where what is removed leaves the network, and `overrides`, True where it reads
    those of a selection, because it cannot select the masks of each layer by itself.
    """

    def select(self, selection: Selection) -> Selected:
        """Select the masks at the density of the selection, or the nearest possible one below."""


class Schedule(Protocol):
    """A rule for the densities that lead from one target to the next."""

    def densities(self, start: float, target: float) -> Sequence[float]:
        """Return strictly decreasing densities below `start`, the last exactly `target`."""


class Architecture(Protocol):
    """A named network; its fields are its hyper-parameters.

    It may have three further attributes: `smallest`, the least rows and columns of an image;
    `task`, `segmentation` where it predicts a class for every pixel (N, classes, H, W); and
    `member(depth, width)`, the parameters of the member of a family with this depth and width.
    """

    @property
    def input_shape(self) -> tuple[int | None, int | None, int | None]:
        """The channels, height and width it takes; None where any is possible."""

    @property
    def outputs(self) -> int:
        """The number of classes."""

    def build(self) -> nn.Module:
        """Build the network with fresh weights.

        A submodule with `trains_alone = True` takes part in training, but not in what the network
        predicts.
        """
