"""Draws where their error bound is the smaller one, the best as they are elsewhere: filter by
filter.

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
    """A filter's weights are drawn where that has the smaller error bound, and else its best remain
    as they are.

    Scores are those of `sipp` with variant `hybrid` or `randomized`, sensitivities s times alpha =
    2 c ln(8 (P + 1) kappa / delta); `c` and `delta` must be the criterion's. One weight carries all
    of the first filter, and remains as it is; the 40 of the second are alike: the best 20 would
    miss 20 times s, so draws stand for all.

    >>> s = torch.cat([torch.eye(1, 40), torch.ones(1, 40)])
    >>> score = s * coefficient(positions=1, kernel=1, delta=0.9)
    >>> Hybrid(delta=0.9).sparsify(torch.ones(2, 40), score, 21, torch.Generator()).weight.sum(
    ...     1
    ... ).round()
    tensor([ 1., 40.])
    """

    reweights: ClassVar[bool] = True
    c: Annotated[float, Field(gt=0, le=100, description="constant of both bounds")] = 3.0
    delta: Annotated[
        float, Field(gt=0, lt=1, description="failure probability of the bound of the draws")
    ] = 1e-16

    def sparsify(self, weight: Tensor, score: Tensor, keep: int, generator: Generator) -> Sparse:
        """As `sparsify_seeing`, of a layer with one output position (P = 1)."""
        return self._sparsified(weight, score, keep, generator, 1)

    def sparsify_seeing(
        self, weight: Tensor, score: Tensor, keep: int, generator: Generator, view: LayerView
    ) -> Sparse:
        """Drawn as `sample` does iff epsilon_det > epsilon_rand, both with m weights on each side,
        else the m best stay.

        epsilon_det = c sum of the s_j that are not kept; epsilon_rand = SiPP's epsilon(alpha S, m)
        of both sides, summed. Right on average where drawn, with p_j > 0; biased where not. Raises
        `ParameterError` for scores below 0 or of whole filters.
        """
        return self._sparsified(weight, score, keep, generator, view.positions)

    def _sparsified(
        self, weight: Tensor, score: Tensor, keep: int, generator: Generator, positions: int
    ) -> Sparse:
        sides = SignedRows.of(weight, score)
        counts = sides.counts(keep)
        drawn, best = (
            sides.law(counts),
            (rank_from_largest(sides.scores) < counts[:, None]) & (sides.scores > 0),
        )
        alpha = coefficient(
            positions, max(1, weight[0, 0].numel()) if weight.dim() > 1 else 1, self.delta, self.c
        )
        deterministic = self.c / alpha * torch.where(best, 0.0, sides.scores).sum(1)
        random = torch.where(drawn.draws < 0, 0.0, epsilon(sides.scores.sum(1), counts))
        chosen = (_filters(deterministic) > _filters(random)).repeat(2)
        law = DrawLaw(
            torch.where(chosen[:, None], drawn.probabilities, best.double()),
            torch.where(chosen, drawn.draws, torch.full_like(drawn.draws, -1)),
        )
        return reweight(weight, compute_reweighting_factors(law, generator), law)


def _filters(sides: Tensor) -> Tensor:
    """The sum of each filter's two sides."""
    return sides.reshape(2, -1).sum(0)
