"""Sampling after the terms that would be drawn anyway have been set aside.

Source: Liebenwein, Baykal, Lang, Feldman and Rus, Provable filter pruning for efficient neural
networks, ICLR 2020, and the code released with Lost in Pruning (PFPNetTop); how the budget is
divided between the two parts is derived here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from pruning.sparsifiers import sparsifiers
from pruning.sparsifiers._signed_rows import (
    Division,
    SignedRows,
    compute_reweighting_factors,
    reweight,
)
from pruning.types import Sparse


@sparsifiers.register("top_sample")
@dataclass(frozen=True)
class TopSample:
    """The most probable weights or channels stay as they are, the others are drawn and reweighted.

    Right on average, with less variance than where all are drawn. In the example three draws let
    one expect 1.8 distinct weights, four more than 2: the first, with p = 4 / 6 above a third,
    stays, and one draw of the other two stands for their sum.

    >>> import torch
    >>> weight, score = torch.tensor([[4.0, 1.0, 1.0]]), torch.tensor([[4.0, 1.0, 1.0]])
    >>> sparse = TopSample().sparsify(weight, score, 2, torch.Generator().manual_seed(0))
    >>> sparse.weight[0, 0], sparse.weight.sum(), int(sparse.mask.sum())
    (tensor(4.), tensor(6.), 2)
    """

    reweights: ClassVar[bool] = True
    division: Division = "sipp"

    def sparsify(self, weight: Tensor, score: Tensor, keep: int, generator: Generator) -> Sparse:
        """Keep weights with p_j >= 1 / N as they are; the others become w_j N_j / (M q_j).

        N draws let one expect a side's share m. With K set aside, at most m - 1, q_j = p_j / (1 -
        sum of theirs), and M draws let one expect m - K distinct. E[w] is the weight where p_j > 0
        and m > 0. About `keep` remain. Raises `ParameterError` for scores below 0 or of filters.
        """
        sides = SignedRows.from_weight(weight, score)
        law = sides.build_top_law(sides.divide_budget(keep, self.division))
        return reweight(weight, compute_reweighting_factors(law, generator), law)
