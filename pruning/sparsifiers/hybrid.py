"""Filter by filter, draws where their error bound is the smaller one, and the best as they are
elsewhere.

Source: Baykal et al., SiPPing neural networks, 2019, and the code released with it (SiPPNetHybrid),
whose constants these are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from pruning.bounds.sipp import coefficient, epsilon
from pruning.sparsifiers import sparsifiers
from pruning.sparsifiers._signed_rows import (
    SignedRows,
    compute_reweighting_factors,
    rank_from_largest,
    reweight,
)
from pruning.types import DrawLaw, LayerView, Sparse


@sparsifiers.register("hybrid")
@dataclass(frozen=True)
class Hybrid:
    """A filter's weights are drawn where that has the smaller error bound; else its best remain.

    Scores are those of `sipp` with variant `hybrid` or `randomized`, sensitivities s times alpha =
    2 c ln(8 (P + 1) kappa / delta); `c` and `delta` must be the criterion's. One weight carries all
    of the first filter, and remains as it is; the 40 of the second are equal: the best 20 would
    miss 20 times s, so draws stand for all.

    >>> s = torch.cat([torch.eye(1, 40), torch.ones(1, 40)])
    >>> score = s * coefficient(positions=1, kernel=1, delta=0.9)
    >>> sparse = Hybrid(delta=0.9).sparsify(torch.ones(2, 40), score, 21, torch.Generator())
    >>> sparse.weight.sum(1).round()
    tensor([ 1., 40.])
    """

    reweights: ClassVar[bool] = True
    c: Annotated[float, Field(gt=0, le=100, description="constant of both bounds")] = 3.0
    delta: Annotated[
        float, Field(gt=0, lt=1, description="failure probability of the bound of the draws")
    ] = 1e-16

    def sparsify(self, weight: Tensor, score: Tensor, keep: int, generator: Generator) -> Sparse:
        """Sparsify a layer with one output position (P = 1), otherwise as `sparsify_seeing`."""
        return self._sparsify(weight, score, keep, generator, positions=1)

    def sparsify_seeing(
        self, weight: Tensor, score: Tensor, keep: int, generator: Generator, view: LayerView
    ) -> Sparse:
        """Draw a filter as `sample` does iff epsilon_det > epsilon_rand, else keep the m best.

        Both bounds are for m weights on each side: epsilon_det = c sum of the s_j that are not
        kept; epsilon_rand = SiPP's epsilon(alpha S, m) of both sides, summed. Right on average
        where drawn, with p_j > 0; biased where not. Raises `ParameterError` for scores below 0 or
        of whole filters.
        """
        return self._sparsify(weight, score, keep, generator, positions=view.positions)

    def _sparsify(
        self, weight: Tensor, score: Tensor, keep: int, generator: Generator, *, positions: int
    ) -> Sparse:
        sides = SignedRows.from_weight(weight, score)
        counts = sides.divide_budget(keep)
        draw_law = sides.build_law(counts)
        best = (rank_from_largest(sides.scores) < counts[:, None]) & (sides.scores > 0)
        kernel = max(1, weight[0, 0].numel()) if weight.dim() > 1 else 1
        alpha = coefficient(positions, kernel, self.delta, self.c)
        deterministic_bound = self.c / alpha * torch.where(best, 0.0, sides.scores).sum(1)
        draw_bound = torch.where(draw_law.draws < 0, 0.0, epsilon(sides.scores.sum(1), counts))
        is_drawn = _sum_sides(deterministic_bound) > _sum_sides(draw_bound)
        is_drawn = is_drawn.repeat(2)  # by side
        law = DrawLaw(
            torch.where(is_drawn[:, None], draw_law.probabilities, best.double()),
            torch.where(is_drawn, draw_law.draws, torch.full_like(draw_law.draws, -1)),
        )
        return reweight(weight, compute_reweighting_factors(law, generator), law)


def _sum_sides(sides: Tensor) -> Tensor:
    """Sum the two sides of each filter."""
    return sides.reshape(2, -1).sum(0)
