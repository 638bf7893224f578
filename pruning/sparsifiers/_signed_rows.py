"""The sides of a layer, how its budget is divided over them, and draws that stand for what was not
drawn.

A side is the weights of one sign in one filter. A sampler makes a `DrawLaw` from the scores, and
draws reweighting factors from the law.
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
"""A rule to divide a layer's share over its sides.

`sipp` minimises the sum of SiPP's errors; `proportional` divides in proportion to the sums of the
scores, with at least one weight for each side.
"""
ROUNDING = 1e-9


@dataclass(frozen=True)
class SignedRows:
    """The weights of one sign in one filter, by row: positive ones first, then negative ones.

    The tensors are (2 out, K).
    """

    scores: Tensor
    """The scores, float64; 0 for what belongs to the other side, or is pruned."""
    alive: Tensor
    """True for the weights of the side that are not pruned."""

    @staticmethod
    def from_weight(weight: Tensor, score: Tensor) -> SignedRows:
        """Split a layer by the scores of its single weights.

        Raises `ParameterError` for scores of another shape, and for scores below 0.
        """
        if score.shape != weight.shape:
            raise ParameterError(
                "sampling needs a score for every single weight", pointer="/sparsifier"
            )
        rows = _to_matrix(weight)
        scores = _to_matrix(score)
        remain = scores > -torch.inf
        if bool((scores[remain] < 0).any()):
            raise ParameterError(
                "sampling needs scores that are sensitivities, none below 0: those of sipp, pfp, "
                "corenet or mussay",
                pointer="/sparsifier",
            )
        alive = torch.cat([(rows > 0) & remain, (rows < 0) & remain])
        both_sides = torch.cat([scores, scores]).double()
        return SignedRows(torch.where(alive, both_sides, 0.0), alive)

    @property
    def drawable(self) -> Tensor:
        """The number of weights of each side that can be drawn, (2 out,)."""
        return (self.scores > 0).sum(1)

    @property
    def probabilities(self) -> Tensor:
        """p_j = s_j / sum s, (2 out, K); zeros for a side without a score."""
        sums = self.scores.sum(1, keepdim=True)
        return self.scores / torch.where(sums > 0, sums, 1.0)

    def divide_budget(self, keep: int, division: Division = "sipp") -> Tensor:
        """Divide `keep` over the sides, in whole weights, (2 out,).

        The sum is less than `keep` where no more weights can be drawn.

        >>> scores = torch.tensor([[6.0, 2.0, 1.0, 1.0], [0.5, 0.25, 0.25, 0.0]])
        >>> rows = SignedRows.from_weight(torch.ones(2, 4), scores)
        >>> rows.divide_budget(5, "proportional")
        tensor([4, 1, 0, 0])
        """
        limits = self.drawable
        if int((limits > 0).sum()) <= 1:
            return limits.clamp_max(keep)
        if division == "sipp":
            sums = self.scores.sum(1)
            shares = spend_budget(sums, torch.ones_like(sums), limits, keep)
        else:
            shares = self._share_proportionally(keep)
        counts = torch.minimum(shares.floor().long(), limits)
        left = min(keep, int(limits.sum())) - int(counts.sum())
        # What rounding down left over goes to the largest remainders.
        remainders = torch.where(counts < limits, shares - counts, -1.0)
        counts[remainders.argsort(descending=True, stable=True)[: max(0, left)]] += 1
        return torch.minimum(counts, limits)

    def _share_proportionally(self, keep: int) -> Tensor:
        """Divide `keep` in proportion to the sums of the scores, float64, (2 out,)."""
        limits = self.drawable
        sums = self.scores.sum(1)
        drawable_sides = int((limits > 0).sum())
        has_one_each = keep >= drawable_sides
        least = (limits > 0).long() if has_one_each else torch.zeros_like(limits)
        sum_of_side = {str(row): value for row, value in enumerate(sums.tolist())}
        room_of_side = {str(row): value for row, value in enumerate((limits - least).tolist())}
        left = float(min(keep, int(limits.sum())) - int(least.sum()))
        rest = share_proportionally(sum_of_side, room_of_side, left)
        return least + torch.tensor(list(rest.values()), dtype=torch.float64, device=sums.device)

    def build_law(self, counts: Tensor) -> DrawLaw:
        """Build the law with p_j = s_j / sum s that lets one expect `counts` distinct weights.

        A side that would keep all it has is not drawn.
        """
        p = self.probabilities
        kept = counts >= self.drawable
        draws = torch.where(kept, torch.zeros_like(counts), find_draws(p, counts))
        return DrawLaw(p, draws.masked_fill(kept, -1))

    def build_top_law(self, counts: Tensor) -> DrawLaw:
        """Build the law that keeps the most probable weights for certain and draws the others.

        Kept are the K weights with p_j >= 1 / N, N the draws of `build_law`; K is at most counts -
        1, so that each of the others can be drawn. The probabilities of the others are
        renormalised, and their draws let one expect counts - K distinct ones.
        """
        plain = self.build_law(counts)
        draws = plain.draws
        p = plain.probabilities
        heavy = (p * draws.clamp_min(0)[:, None] >= 1 - ROUNDING).sum(1)
        certain = torch.minimum(heavy, (counts - 1).clamp_min(0))
        is_certain = rank_from_largest(p) < certain[:, None]
        rest = torch.where(is_certain, 0.0, p)
        sums = rest.sum(1, keepdim=True)
        rest = rest / torch.where(sums > 0, sums, 1.0)
        drawn = (draws > 0)[:, None]
        rest_draws = torch.where(draws > 0, find_draws(rest, counts - certain), draws)
        probabilities = torch.where(is_certain & drawn, 1.0, torch.where(drawn, rest, p))
        return DrawLaw(probabilities, rest_draws)


def rank_from_largest(values: Tensor) -> Tensor:
    """Rank each value in its row from the largest, 0 first; of equal ones the first comes first."""
    order = values.argsort(dim=1, descending=True, stable=True)
    ranks = torch.arange(values.shape[1], device=values.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, ranks)


def compute_reweighting_factors(law: DrawLaw, generator: Generator) -> Tensor:
    """Draw once from the law and compute N_j / (N p_j), float64, shaped as its probabilities.

    0 for what was not drawn, 1 for what is kept for certain and where a side is kept as it is. The
    mean over draws is 1 where p_j > 0 and N > 0.
    """
    p = law.probabilities
    draws = law.draws[:, None]
    certain = (p >= 1) & (draws != 0)
    uncertain = p.masked_fill(certain, 0.0)
    times = draw_multiplicities(uncertain, law.draws.clamp_min(0), generator)
    tiny = torch.finfo(p.dtype).tiny
    expected = draws.clamp_min(1) * uncertain.clamp_min(tiny)
    drawn = torch.where(times > 0, times / expected, 0.0)
    kept = (p > 0).double()
    return torch.where(certain, 1.0, torch.where(draws < 0, kept, drawn))


def reweight(weight: Tensor, factor: Tensor, law: DrawLaw | None) -> Sparse:
    """Multiply each weight of a layer by the factor of its side; `factor` is (2 out, K)."""
    both_sides = factor.reshape(2, -1).sum(0).reshape(weight.shape)
    mask = both_sides > 0
    product = (weight.double() * both_sides).to(weight.dtype)
    return Sparse(mask, torch.where(mask, product, torch.zeros_like(weight)), law)


def _to_matrix(value: Tensor) -> Tensor:
    """Return one row for each filter; a vector becomes a single row."""
    return value.flatten(1) if value.dim() > 1 else value[None]
