"""Sampling with replacement: the terms that are drawn by their score stand for the rest.

Source: Baykal et al., SiPPing neural networks, 2019 (SiPPNetRand); Liebenwein et al., Provable
filter pruning for efficient neural networks, ICLR 2020 (PFPNetRand); Mussay et al.,
Data-independent neural pruning via coresets, ICLR 2020; and the code released with them, which
draws until a number of distinct ones is reached and so is not right on average: here the number of
draws is fixed.
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


@sparsifiers.register("sample")
@dataclass(frozen=True)
class Sample:
    """Weights or channels drawn with probability proportional to their score, and reweighted.

    Right on average. Weights are drawn side by side, a side being the weights of one sign in one
    filter. `division` says how a layer's share is divided over its sides: by SiPP's bound, or in
    proportion to their scores as CoreNet does.

    >>> import torch
    >>> weight, score = torch.tensor([[2.0, 2.0, -1.0]]), torch.tensor([[1.0, 1.0, 1.0]])
    >>> sparse = Sample().sparsify(weight, score, 2, torch.Generator().manual_seed(0))
    >>> int(sparse.mask.sum()), sparse.weight.sum()
    (2, tensor(3.))
    """

    reweights: ClassVar[bool] = True
    division: Division = "sipp"

    def sparsify(self, weight: Tensor, score: Tensor, keep: int, generator: Generator) -> Sparse:
        """Compute w_j N_j / (N p_j), p_j = s_j / sum s over the side.

        E[w] is the weight where p_j > 0 and N > 0. A side's share of `keep` is a number of distinct
        weights, N the draws that let one expect it: about `keep` remain. A side that would keep all
        it has is not drawn. Raises `ParameterError` for scores below 0 or of whole filters.
        """
        sides = SignedRows.from_weight(weight, score)
        law = sides.build_law(sides.divide_budget(keep, self.division))
        return reweight(weight, compute_reweighting_factors(law, generator), law)
