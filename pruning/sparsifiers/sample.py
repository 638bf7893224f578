"""Sampling with replacement: weights are drawn by their scores, and those drawn stand for the others.

Source: Baykal et al., SiPPing neural networks, 2019, and the code released with it (SiPPNetRand).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from pruning.bounds.draws import draws_for, multiplicities
from pruning.bounds.sipp import spent
from pruning.errors import ParameterError
from pruning.sparsifiers import sparsifiers
from pruning.types import Law, Sparse


@dataclass(frozen=True)
class Sides:
    """The weights of one sign in one filter, by row: positive ones first, then negative ones; (2 out, K)."""

    scores: Tensor
    """0 for what belongs to the other side, or is pruned."""
    alive: Tensor

    @staticmethod
    def of(weight: Tensor, score: Tensor) -> Sides:
        """Those of a layer, by the scores of its single weights; `ParameterError` for others, and below 0."""
        if score.shape != weight.shape:
            raise ParameterError("sampling needs a score for every single weight", pointer="/sparsifier")
        rows, marks = _matrix(weight), _matrix(score)
        if bool((marks[marks > -torch.inf] < 0).any()):
            raise ParameterError("sampling needs scores that are sensitivities, none below 0: those of sipp",
                                 pointer="/sparsifier")
        alive = torch.cat([(rows > 0) & (marks > -torch.inf), (rows < 0) & (marks > -torch.inf)])
        return Sides(torch.where(alive, torch.cat([marks, marks]).double(), 0.0), alive)

    @property
    def drawable(self) -> Tensor:
        """How many of each side can be drawn, (2 out,)."""
        return (self.scores > 0).sum(1)

    def counts(self, keep: int) -> Tensor:
        """`keep` divided over the sides by SiPP's bound, whole, (2 out,): less where no more can be drawn."""
        limits = self.drawable
        sums = self.scores.sum(1)
        shares = spent(sums, torch.ones_like(sums), limits, keep)
        found = torch.minimum(shares.floor().long(), limits)
        left = min(keep, int(limits.sum())) - int(found.sum())
        rest = torch.where(found < limits, shares - found, -1.0)
        found[rest.argsort(descending=True, stable=True)[:max(0, left)]] += 1
        return torch.minimum(found, limits)

    def drawn(self, keep: int, generator: Generator) -> tuple[Tensor, Law]:
        """N_j / (N p_j) for every weight, (2 out, K), float64, and the law; 0 where it was not drawn, 1 where a side is kept
        as it is.

        p_j = s_j / sum s. A side's share of `keep` is a number of distinct weights, N the draws that let one expect it. A
        side that would keep all it has is not drawn.
        """
        counts, sums = self.counts(keep), self.scores.sum(1, keepdim=True)
        p = self.scores / torch.where(sums > 0, sums, 1.0)
        kept = counts >= self.drawable
        draws = torch.where(kept, torch.zeros_like(counts), draws_for(p, counts))
        times = multiplicities(p, draws, generator)
        factor = torch.where(times > 0, times / (draws[:, None].clamp_min(1) * p.clamp_min(torch.finfo(p.dtype).tiny)), 0.0)
        return torch.where(kept[:, None], (self.scores > 0).double(), factor), Law(p, draws.masked_fill(kept, -1))


@sparsifiers.register("sample")
@dataclass(frozen=True)
class Sample:
    """Weights drawn with probability proportional to their score, side by side, and reweighted: right on average.

    >>> weight, score = torch.tensor([[2.0, 2.0, -1.0]]), torch.tensor([[1.0, 1.0, 1.0]])
    >>> sparse = Sample().sparsify(weight, score, 2, torch.Generator().manual_seed(0))
    >>> int(sparse.mask.sum()), sparse.weight.sum()
    (2, tensor(3.))
    """

    reweights: ClassVar[bool] = True

    def sparsify(self, weight: Tensor, score: Tensor, keep: int, generator: Generator) -> Sparse:
        """w_j N_j / (N p_j); E[w] is the weight where p_j > 0. About `keep` weights remain: that many are expected."""
        return spread(weight, *Sides.of(weight, score).drawn(keep, generator))


def spread(weight: Tensor, factor: Tensor, law: Law) -> Sparse:
    """The layer with each weight times the factor of its side, (2 out, K)."""
    both = factor.reshape(2, -1).sum(0).reshape(weight.shape)
    mask = both > 0
    return Sparse(mask, torch.where(mask, (weight.double() * both).to(weight.dtype), torch.zeros_like(weight)), law)


def _matrix(value: Tensor) -> Tensor:
    """One row for each filter; a vector is one."""
    return value.flatten(1) if value.dim() > 1 else value[None]
