"""Deterministic sparsification: the best remain as they are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor

from pruning.masks import select_top
from pruning.sparsifiers import sparsifiers
from pruning.types import Sparse


@sparsifiers.register("top_k")
@dataclass(frozen=True)
class TopK:
    """The highest scores of a layer remain, their weights unchanged.

    >>> import torch
    >>> weight, score = torch.tensor([3.0, -4.0]), torch.tensor([3.0, 4.0])
    >>> sparse = TopK().sparsify(weight, score, 1, torch.Generator())
    >>> sparse.mask, sparse.weight
    (tensor([False,  True]), tensor([ 0., -4.]))
    """

    def sparsify(self, weight: Tensor, score: Tensor, keep: int, generator: Generator) -> Sparse:
        """Keep `keep` weights; a score that stands for several keeps or drops them together."""
        mask = self.choose(weight, score, keep).clone()
        return Sparse(mask, weight.masked_fill(~mask, 0.0))

    def choose(self, weight: Tensor, score: Tensor, keep: int) -> Tensor:
        """Choose the weights that `sparsify` keeps: the mask alone, which may be a view."""
        cost = weight.numel() // score.numel()
        return select_top(score, keep // cost).expand_as(weight)
