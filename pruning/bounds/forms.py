"""A pruned layer at some inputs, and how far its outputs may be from those of the dense layer: the
forms of the bound.

`hoeffding`, `bernstein` and `minimum` hold for the inputs at hand, all layers, outputs, positions
and inputs together, with probability 1 - delta over the draws, and so do `ball` and `ball
bernstein`; `deterministic` holds always. A criterion adds the form of its paper, `paper`, and
that of the code released with it where that is another, `code`; both rest on assumptions about
inputs not seen and are not certified. The source of each is
named in the module of its method; the forms for the inputs at hand are derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from pruning.bounds.inputs import Inputs
from pruning.bounds.sums import (
    Sums,
    add_errors,
    bernstein,
    divide_or_zero,
    hoeffding,
    multiply_patches,
)
from pruning.evidence.evidence import Evidence
from pruning.networks.layers import Layer, as_matrices
from pruning.types import DrawLaw

CERTIFIED = ("hoeffding", "bernstein", "minimum", "deterministic", "ball", "ball bernstein")
"""Forms that hold with the probability they claim, whatever the weights and the inputs."""


@dataclass(frozen=True, kw_only=True)
class PrunedLayer:
    """A layer of a pruned network at N inputs."""

    name: str
    layer: Layer
    weight: Tensor
    """The weight of the dense network, BatchNorm folded."""
    scores: Tensor
    """The criterion's scores by row of the law, (rows, terms); 0 for another row's term."""
    kept: Tensor
    """Whether a term remains, bool, shaped as `scores`."""
    law: DrawLaw
    """The law of the draws; for a deterministic sparsifier, probabilities in proportion to the
    scores, and nothing drawn.
    """
    open: Tensor
    """The probabilities of the terms that are not kept for certain, (rows, terms), else 0."""
    sums: Sums
    patches: Tensor
    """The inputs of every output position, (N, G, K, L), as in `pruning.networks.layers`."""
    log: float
    """ln(2 n / delta), n the bounds that share delta: all layers' outputs at all positions and
    inputs, by side, times the repeats of the layer's law.
    """
    log_split: float
    """The same logarithm where delta is divided over the certified forms too."""
    delta: float
    sampled: bool
    """Whether the sparsifier draws, in this layer or another."""
    by_weight: bool
    """Whether terms are single weights, or else input channels."""
    first: Tensor | None = None
    """The first input of each input's channel where several inputs are one channel, see
    `pruning.bounds.sums.first_of_channel`.
    """
    seen: Mapping[str, Inputs] = field(default_factory=dict)
    """The inputs of every layer for the same images, by weight."""
    prepared: Any = None
    """The answer of the criterion's `prepare`, see `PreparesBound`."""

    @property
    def positions(self) -> int:
        """P, the number of output positions."""
        return self.patches.shape[-1]

    @property
    def kernel(self) -> int:
        """kappa, the area of the kernel."""
        return self.weight[0, 0].numel()

    @cached_property
    def draws(self) -> Tensor:
        """The draws of each row, (S, 1, rows, 1), to broadcast against sums."""
        return self.arrange_by_side(self.law.draws)

    @cached_property
    def lost(self) -> Tensor:
        """The part of its scores that a row without draws loses, (S, 1, rows, 1), float64."""
        sums = self.scores.sum(1)
        pruned = (self.scores * ~self.kept).sum(1)
        part = pruned / torch.where(sums > 0, sums, 1.0)
        return self.arrange_by_side(torch.where(self.law.draws < 0, part, 0.0))

    @cached_property
    def score_sums(self) -> Tensor:
        """The sum of the scores of each row, (S, 1, rows, 1)."""
        return self.arrange_by_side(self.scores.double().sum(1))

    @cached_property
    def distinct(self) -> Tensor:
        """The number of terms of each row that remain, (S, 1, rows, 1)."""
        remains = self.kept & (self.law.probabilities > 0)
        if self.first is not None:
            # a channel that is several inputs counts at its first one
            places = torch.arange(self.first.shape[1], device=self.first.device)
            remains = remains & (self.first == places).flatten()
        remaining = remains.sum(1)
        return self.arrange_by_side(torch.where(self.law.draws > 0, remaining, self.law.draws))

    @cached_property
    def missing(self) -> Tensor:
        """The sum of the terms that cannot be drawn and are not kept for certain, (N, out, L)."""
        weight = as_matrices(self.layer, self.weight)
        never_drawn = (self.law.probabilities == 0).reshape(self._row_shape).all(0)
        gone = never_drawn & ~self.kept.reshape(self._row_shape)[0]
        if not self.by_weight:  # each channel once for every weight of its kernel
            gone = gone.reshape(len(weight), 1, -1).repeat_interleave(self.kernel, 2)
        return multiply_patches((weight * gone)[None], self.patches)[0]

    @cached_property
    def pruned_size(self) -> Tensor:
        """The sum of |v_j| over the terms that are pruned, (S, N, out, L)."""
        size = as_matrices(self.layer, self.weight).abs()
        gone = (~self.kept & (self.scores > 0)).reshape(self._row_shape)
        if not self.by_weight:
            gone = gone.reshape(len(gone), len(size), 1, -1).repeat_interleave(self.kernel, 3)
        return multiply_patches(size * gone, self.patches.abs())

    @property
    def _row_shape(self) -> tuple[int, ...]:
        """(2, G, out / G, K) for weights, (R, in) for channels."""
        if self.by_weight:
            return (2, *as_matrices(self.layer, self.weight).shape)
        return tuple(self.kept.shape)

    def check_assumption(self, inflation: Tensor, constant: float) -> Tensor:
        """Whether g_j <= C s_j for all terms of an output, those with s_j = 0 too, (N, out, L)."""
        return (inflation <= constant * (1 + 1e-9)).all(0) & (self.missing == 0)

    def arrange_by_side(self, rows: Tensor) -> Tensor:
        """Numbers by row of the law, (rows,), as (S, 1, rows, 1) to broadcast against sums."""
        return rows.reshape(len(self.sums.value), 1, -1, 1)

    def scale_to_sizes(self, epsilon: Tensor, constant: float | Tensor) -> Tensor:
        """The sum over the sides of epsilon times the sum of |v_j|, (N, out, L).

        A row that was kept as it is loses `constant` times the scores of what it prunes instead; a
        row of which nothing was drawn loses all.
        """
        share = torch.where(self.draws < 0, constant * self.score_sums * self.lost, epsilon)
        share = torch.where(self.draws == 0, 1.0, share)
        return torch.where(self.sums.size > 0, share * self.sums.size, 0.0).sum(0)

    @cached_property
    def inflation(self) -> Tensor:
        """max_j g_j / s_j at each input, the smallest C that holds there.

        g_j is the part of weight j in the sum, s_j its sensitivity.
        """
        whole = self.sums.size * self.score_sums
        return divide_or_zero(self.sums.reach, whole)


@dataclass(frozen=True)
class Paper:
    """The bound of a paper, and the same with one factor at a time as it is at the input."""

    error: Tensor | None
    """The bound, (N, out, L); None where it does not cover this kind of pruning."""
    swaps: Mapping[str, Tensor] = field(default_factory=dict)
    """The bound with one factor replaced, by what replaces it, (N, out, L)."""
    assumption: Tensor | None = None
    """Whether the paper's assumption holds, bool (N, out, L)."""
    forms: Mapping[str, Tensor] = field(default_factory=dict)
    """Other forms of the same bound, (N, out, L)."""
    form: str = "paper"
    """The name of the form of `error` and `swaps`: `code` where it is that of the released code and
    not of the paper.
    """


@runtime_checkable
class BoundedCriterion(Protocol):
    """A criterion whose paper bounds the error of a layer."""

    def bound(self, layer: PrunedLayer) -> Paper:
        """The paper's bound with its own constants."""


@runtime_checkable
class PreparesBound(Protocol):
    """A bounded criterion that has to know more of the network than a layer shows."""

    def prepare(self, evidence: Evidence) -> Any:
        """The value that `bound` reads from `PrunedLayer.prepared`; `evidence` is of the dense
        network, BatchNorm folded.
        """


@runtime_checkable
class BoundsRelativeError(Protocol):
    """A bounded criterion whose paper bounds the relative error of a chain of layers."""

    def relative(self, layers: Sequence[PrunedLayer]) -> Mapping[str, Tensor | float]:
        """tau with |z' - z| <= tau |z| for every logit z by form, a number or (N,); infinite where
        the form says nothing.
        """


def bound_certified_forms(layer: PrunedLayer, *, components: bool) -> dict[str, Tensor]:
    """The forms that hold at these inputs, each (N, out, L), and with `components` the forms
    without the union bound.
    """
    certain = layer.sums.reach * layer.lost.to(layer.sums.reach.dtype)
    if not layer.sampled:
        return {"deterministic": add_errors(certain, layer.missing)}

    def bound(inequality: Callable[[Sums, Tensor, float], Tensor], log: float) -> Tensor:
        sides = inequality(layer.sums, layer.draws, log)
        return add_errors(torch.where(layer.draws < 0, certain, sides), layer.missing)

    forms = {
        "hoeffding": bound(hoeffding, layer.log),
        "bernstein": bound(bernstein, layer.log),
        "minimum": torch.minimum(
            bound(hoeffding, layer.log_split), bound(bernstein, layer.log_split)
        ),
    }
    if components:
        log_alone = math.log(2 / layer.delta)
        forms |= {
            "hoeffding with no union bound": bound(hoeffding, log_alone),
            "bernstein with no union bound": bound(bernstein, log_alone),
        }
    return forms
