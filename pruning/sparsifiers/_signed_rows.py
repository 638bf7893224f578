"""The sides of a layer, how its budget is divided over them, and draws that stand for what was not
drawn.

A side is the weights of one sign in one filter. A sampler makes a `DrawLaw` of the scores, and
factors of the law.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from pruning.allocations._shares import share_proportionally
from pruning.bounds.draws import draw_multiplicities, find_draws
from pruning.bounds.sipp import spend_budget
from pruning.errors import ParameterError
from pruning.types import DrawLaw, Sparse

Division = Literal["sipp", "proportional"]
"""`sipp`: the least sum of SiPP's errors; `share_proportionally`: to the sums of the scores, and to
each side at least one.
"""
ROUNDING = 1e-9


@dataclass(frozen=True)
class SignedRows:
    """The weights of one sign in one filter, by row: positive ones first, then negative ones; (2
    out, K).
    """

    scores: Tensor
    """float64; 0 for what belongs to the other side, or is pruned."""
    alive: Tensor

    @staticmethod
    def of(weight: Tensor, score: Tensor) -> SignedRows:
        """Those of a layer, by the scores of its single weights; `ParameterError` for others, and
        below 0.
        """
        if score.shape != weight.shape:
            raise ParameterError(
                "sampling needs a score for every single weight", pointer="/sparsifier"
            )
        rows, marks = _matrix(weight), _matrix(score)
        if bool((marks[marks > -torch.inf] < 0).any()):
            raise ParameterError(
                "sampling needs scores that are sensitivities, none below 0: those of sipp, pfp, "
                "corenet or mussay",
                pointer="/sparsifier",
            )
        alive = torch.cat([(rows > 0) & (marks > -torch.inf), (rows < 0) & (marks > -torch.inf)])
        return SignedRows(torch.where(alive, torch.cat([marks, marks]).double(), 0.0), alive)

    @property
    def drawable(self) -> Tensor:
        """How many of each side can be drawn, (2 out,)."""
        return (self.scores > 0).sum(1)

    @property
    def probabilities(self) -> Tensor:
        """p_j = s_j / sum s, (2 out, K); zeros for a side without a score."""
        sums = self.scores.sum(1, keepdim=True)
        return self.scores / torch.where(sums > 0, sums, 1.0)

    def counts(self, keep: int, division: Division = "sipp") -> Tensor:
        """`keep` divided over the sides, whole, (2 out,): less where no more can be drawn.

        >>> scores = torch.tensor([[6.0, 2.0, 1.0, 1.0], [0.5, 0.25, 0.25, 0.0]])
        >>> SignedRows.of(torch.ones(2, 4), scores).counts(5, "proportional")
        tensor([4, 1, 0, 0])
        """
        limits, sums = self.drawable, self.scores.sum(1)
        if int((limits > 0).sum()) <= 1:
            return limits.clamp_max(keep)
        if division == "sipp":
            shares = spend_budget(sums, torch.ones_like(sums), limits, keep)
        else:
            least = (
                (limits > 0).long() if keep >= int((limits > 0).sum()) else torch.zeros_like(limits)
            )
            rows = {str(row): value for row, value in enumerate(sums.tolist())}
            room = {str(row): value for row, value in enumerate((limits - least).tolist())}
            rest = share_proportionally(
                rows, room, float(min(keep, int(limits.sum())) - int(least.sum()))
            )
            shares = least + torch.tensor(
                list(rest.values()), dtype=torch.float64, device=sums.device
            )
        found = torch.minimum(shares.floor().long(), limits)
        left = min(keep, int(limits.sum())) - int(found.sum())
        rest_of = torch.where(found < limits, shares - found, -1.0)
        found[rest_of.argsort(descending=True, stable=True)[: max(0, left)]] += 1
        return torch.minimum(found, limits)

    def law(self, counts: Tensor) -> DrawLaw:
        """p_j = s_j / sum s, and the draws that let one expect so many distinct weights; none where
        all would be kept.
        """
        p, kept = self.probabilities, counts >= self.drawable
        draws = torch.where(kept, torch.zeros_like(counts), find_draws(p, counts))
        return DrawLaw(p, draws.masked_fill(kept, -1))

    def top_law(self, counts: Tensor) -> DrawLaw:
        """The K most probable with p_j >= 1 / N kept for certain, N the draws of `law`; the others
        drawn, renormalised.

        The others get the draws that let one expect counts - K distinct ones; K is at most counts -
        1, so that each of them can be drawn.
        """
        plain = self.law(counts)
        draws, p = plain.draws, plain.probabilities
        heavy = (p * draws.clamp_min(0)[:, None] >= 1 - ROUNDING).sum(1)
        certain = torch.minimum(heavy, (counts - 1).clamp_min(0))
        first = rank_from_largest(p) < certain[:, None]
        rest = torch.where(first, 0.0, p)
        sums = rest.sum(1, keepdim=True)
        rest = rest / torch.where(sums > 0, sums, 1.0)
        again = torch.where(draws > 0, find_draws(rest, counts - certain), draws)
        return DrawLaw(
            torch.where(
                first & (draws > 0)[:, None], 1.0, torch.where(draws[:, None] > 0, rest, p)
            ),
            again,
        )


def rank_from_largest(values: Tensor) -> Tensor:
    """The place of each value in its row from the largest, 0 first; of equal ones the first comes
    first.
    """
    order = values.argsort(dim=1, descending=True, stable=True)
    return torch.empty_like(order).scatter_(
        1, order, torch.arange(values.shape[1], device=values.device).expand_as(order)
    )


def compute_reweighting_factors(law: DrawLaw, generator: Generator) -> Tensor:
    """N_j / (N p_j) of one draw of the law, float64, shaped as its probabilities: 0 for what was
    not drawn.

    1 for what is kept for certain, and where a side is kept as it is. The mean over draws is 1
    where p_j > 0 and N > 0.
    """
    p, draws = law.probabilities, law.draws[:, None]
    certain = (p >= 1) & (draws != 0)
    open_ = p.masked_fill(certain, 0.0)
    times = draw_multiplicities(open_, law.draws.clamp_min(0), generator)
    tiny = torch.finfo(p.dtype).tiny
    drawn = torch.where(times > 0, times / (draws.clamp_min(1) * open_.clamp_min(tiny)), 0.0)
    return torch.where(certain, 1.0, torch.where(draws < 0, (p > 0).double(), drawn))


def reweight(weight: Tensor, factor: Tensor, law: DrawLaw | None) -> Sparse:
    """The layer with each weight times the factor of its side, (2 out, K)."""
    both = factor.reshape(2, -1).sum(0).reshape(weight.shape)
    mask = both > 0
    return Sparse(
        mask,
        torch.where(mask, (weight.double() * both).to(weight.dtype), torch.zeros_like(weight)),
        law,
    )


def _matrix(value: Tensor) -> Tensor:
    """One row for each filter; a vector is one."""
    return value.flatten(1) if value.dim() > 1 else value[None]
