"""A sparsifier that keeps the sign of a weight and the mean size of its layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor

from pruning.masks import select_top
from pruning.sparsifiers import sparsifiers
from pruning.types import Sparse


@sparsifiers.register("signs_only")
@dataclass(frozen=True)
class SignsOnly:
    """The highest scores of a layer remain, each weight as its sign times the mean size."""

    def sparsify(self, weight: Tensor, score: Tensor, keep: int, generator: Generator) -> Sparse:
        """w' = sign(w) mean |w| over the weights that remain."""
        mask = select_top(score.expand_as(weight), keep)
        size = weight[mask].abs().mean()
        return Sparse(mask, (weight.sign() * size).masked_fill(~mask, 0.0))
