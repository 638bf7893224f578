"""A pruned layer at some inputs, and how far its outputs may be from those of the dense layer: the
forms of the bound.

`hoeffding`, `bernstein` and `minimum` hold for the inputs at hand, all layers, outputs, positions
and inputs together, with probability 1 - delta over the draws, and so do `ball` and `ball
bernstein`; `deterministic` holds always. A criterion adds the form of its paper, `paper`, which
rests on assumptions about inputs not seen and is not certified. Source of each: the module that is
named like the method; what holds for the inputs at hand is derived here.
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
from pruning.bounds.sums import Sums, add_errors, bernstein, hoeffding, multiply_patches
from pruning.evidence.evidence import Evidence
from pruning.networks.layers import Layer, as_matrices
from pruning.types import DrawLaw

CERTIFIED = ("hoeffding", "bernstein", "minimum", "deterministic", "ball", "ball bernstein")
"""Forms that hold with the probability they claim, whatever the weights and the inputs."""


@dataclass(frozen=True, kw_only=True)
class PrunedLayer:
    """One layer of a pruned network at N inputs."""

    name: str
    layer: Layer
    weight: Tensor
    """Of the dense network, BatchNorm folded."""
    scores: Tensor
    """The criterion's, by row of the law, (rows, terms): 0 where a term is of another row."""
    kept: Tensor
    """Bool, as `scores`: what remains."""
    law: DrawLaw
    """Of a deterministic sparsifier, probabilities in proportion to the scores, and nothing drawn.
    """
    open: Tensor
    """Probabilities of what is not there for certain, (rows, terms), 0 for what is."""
    sums: Sums
    patches: Tensor
    """(N, G, K, L), as in `pruning.networks.layers`."""
    log: float
    """ln(2 n / delta), n the outputs, sides, positions and inputs of all layers that are sampled.
    """
    log_split: float
    """The same, where delta is divided over the forms that are certified."""
    delta: float
    sampled: bool
    """Whether the sparsifier draws, in this layer or another."""
    by_weight: bool
    """Whether terms are single weights, or else input channels."""
    first: Tensor | None = None
    """Where several inputs are one channel, which of them are, see
    `pruning.bounds.sums.first_of_channel`.
    """
    seen: Mapping[str, Inputs] = field(default_factory=dict)
    """What every layer sees of the same inputs, by weight."""
    prepared: Any = None
    """What the criterion found out once, see `Preparing`."""

    @property
    def positions(self) -> int:
        """P, of the output."""
        return self.patches.shape[-1]

    @property
    def kernel(self) -> int:
        """kappa, the area of the kernel."""
        return self.weight[0, 0].numel()

    @cached_property
    def draws(self) -> Tensor:
        """(S, 1, rows, 1), to broadcast against sums."""
        return self.by_side(self.law.draws)

    @cached_property
    def lost(self) -> Tensor:
        """The part that a row without draws loses of its scores, (S, 1, rows, 1), float64."""
        sums = self.scores.sum(1)
        part = (self.scores * ~self.kept).sum(1) / torch.where(sums > 0, sums, 1.0)
        return self.by_side(torch.where(self.law.draws < 0, part, 0.0))

    @cached_property
    def score_sums(self) -> Tensor:
        """The scores of a row together, (S, 1, rows, 1)."""
        return self.by_side(self.scores.double().sum(1))

    @cached_property
    def distinct(self) -> Tensor:
        """How many terms of a row remain, (S, 1, rows, 1)."""
        once = (
            True
            if self.first is None
            else (self.first == torch.arange(self.first.shape[1])).flatten()
        )
        remaining = (self.kept & (self.law.probabilities > 0) & once).sum(1)
        return self.by_side(torch.where(self.law.draws > 0, remaining, self.law.draws))

    @cached_property
    def missing(self) -> Tensor:
        """What the terms that cannot be drawn give where they are not kept for certain, (N, out,
        L).
        """
        weight = as_matrices(self.layer, self.weight)
        never = (self.law.probabilities == 0).reshape(self._rows).all(0) & ~self.kept.reshape(
            self._rows
        )[0]
        gone = (
            never
            if self.by_weight
            else never.reshape(len(weight), 1, -1).repeat_interleave(self.kernel, 2)
        )
        return multiply_patches((weight * gone)[None], self.patches)[0]

    @cached_property
    def pruned_size(self) -> Tensor:
        """Of the terms that are pruned, each taken absolutely: (S, N, out, L)."""
        size = as_matrices(self.layer, self.weight).abs()
        gone = (~self.kept & (self.scores > 0)).reshape(self._rows)
        if not self.by_weight:
            gone = gone.reshape(len(gone), len(size), 1, -1).repeat_interleave(self.kernel, 3)
        return multiply_patches(size * gone, self.patches.abs())

    @property
    def _rows(self) -> tuple[int, ...]:
        """(2, G, out / G, K) for weights, (R, in) for channels."""
        return (
            (2, *as_matrices(self.layer, self.weight).shape)
            if self.by_weight
            else tuple(self.kept.shape)
        )

    def assumed(self, inflation: Tensor, constant: float) -> Tensor:
        """Whether g_j <= C s_j for all terms of an output, those with s_j = 0 too, (N, out, L)."""
        return (inflation <= constant * (1 + 1e-9)).all(0) & (self.missing == 0)

    def by_side(self, rows: Tensor) -> Tensor:
        """One number for each row of the law, to broadcast against sums."""
        return rows.reshape(len(self.sums.value), 1, -1, 1)

    def relative(self, epsilon: Tensor, constant: float | Tensor) -> Tensor:
        """epsilon times the sum of the sizes, by side, (N, out, L).

        A row without draws loses `constant` times the scores of what it prunes instead, one of
        which nothing was drawn all.
        """
        found = torch.where(self.draws < 0, constant * self.score_sums * self.lost, epsilon)
        found = torch.where(self.draws == 0, 1.0, found)
        return torch.where(self.sums.size > 0, found * self.sums.size, 0.0).sum(0)

    @cached_property
    def inflation(self) -> Tensor:
        """max_j g_j / s_j at each input, the part of a weight there over its sensitivity: the C
        that would have done.
        """
        whole = self.sums.size * self.score_sums
        return torch.where(whole > 0, self.sums.reach / torch.where(whole > 0, whole, 1.0), 0.0)


@dataclass(frozen=True)
class Paper:
    """The form of a paper, and the same with one factor at a time replaced by what it is at the
    input.
    """

    error: Tensor | None
    """(N, out, L); None where the paper has nothing to say of how this was pruned."""
    swaps: Mapping[str, Tensor] = field(default_factory=dict)
    assumption: Tensor | None = None
    """Bool: where the paper's assumption holds."""
    forms: Mapping[str, Tensor] = field(default_factory=dict)
    """Other forms of the same bound, (N, out, L)."""


@runtime_checkable
class BoundedCriterion(Protocol):
    """A criterion whose paper bounds the error of a layer."""

    def bound(self, layer: PrunedLayer) -> Paper:
        """The paper's bound with its own constants."""


@runtime_checkable
class Preparing(Protocol):
    """A bounded criterion that has to know more of the network than a layer shows."""

    def prepare(self, evidence: Evidence) -> Any:
        """What `bound` finds in `Drawn.prepared`; `evidence` is of the dense network, BatchNorm
        folded.
        """


@runtime_checkable
class Relative(Protocol):
    """A bounded criterion whose paper bounds the relative error of a chain of layers."""

    def relative(self, layers: Sequence[PrunedLayer]) -> Mapping[str, Tensor | float]:
        """By form, tau with |z' - z| <= tau |z| for every logit z, a number or (N,); infinite where
        it says nothing.
        """


def bound_certified_forms(layer: PrunedLayer, components: bool) -> dict[str, Tensor]:
    """The forms that hold at these inputs, each (N, out, L), and with `components` what the union
    bound costs them.
    """
    certain = layer.sums.reach * layer.lost.to(layer.sums.reach.dtype)
    if not layer.sampled:
        return {"deterministic": add_errors(certain, layer.missing)}

    def form(inequality: Callable[[Sums, Tensor, float], Tensor], log: float) -> Tensor:
        sides = inequality(layer.sums, layer.draws, log)
        return add_errors(torch.where(layer.draws < 0, certain, sides), layer.missing)

    found = {
        "hoeffding": form(hoeffding, layer.log),
        "bernstein": form(bernstein, layer.log),
        "minimum": torch.minimum(
            form(hoeffding, layer.log_split), form(bernstein, layer.log_split)
        ),
    }
    if components:
        alone = math.log(2 / layer.delta)
        found |= {
            "hoeffding with no union bound": form(hoeffding, alone),
            "bernstein with no union bound": form(bernstein, alone),
        }
    return found
