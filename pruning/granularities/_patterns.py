"""Weights as matrices in which the input channel is the fastest axis, for patterns of neighbours:
blocks, and N of M.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pruning.errors import BudgetError, ParameterError
from pruning.masks import count_to_keep
from pruning.sparsifiers.top_k import TopK
from pruning.types import Masks, Scores, Selected, Selection


def flatten(weight: Tensor) -> Tensor:
    """Flatten a tensor shaped as a weight to a matrix (out, K).

    A row holds the kernel of an output, (in, h, w), in the order h, w, in.

    >>> flatten(torch.arange(8).reshape(1, 2, 2, 2))
    tensor([[0, 4, 1, 5, 2, 6, 3, 7]])
    """
    return weight.movedim(1, -1).flatten(1)


def unflatten(matrix: Tensor, shape: torch.Size) -> Tensor:
    """Invert `flatten`.

    >>> unflatten(flatten(torch.arange(8).reshape(1, 2, 2, 2)), torch.Size([1, 2, 2, 2])).flatten()
    tensor([0, 1, 2, 3, 4, 5, 6, 7])
    """
    return matrix.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1).contiguous()


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """The layers of a selection that divide into groups of neighbours, and their budget."""

    scores: Scores
    """The score of every weight, as matrices (out, K), -inf for what is pruned."""
    keep: int
    """The number of weights of these layers that may remain."""
    alive: int
    """The number of weights of these layers that are not pruned."""
    dense: int
    """The number of weights that remain in the layers that do not divide."""
    total: int
    """The number of all prunable weights."""
    left_dense: dict[str, str]
    """The layers that do not divide, each with its reason."""

    @staticmethod
    def from_selection(selection: Selection, rows: int, columns: int) -> Pattern:
        """Find the layers that divide into groups of `rows` x `columns` weights.

        Raises `ParameterError` for sparsifiers other than `top_k`, `BudgetError` where no layer
        divides.
        """
        if not isinstance(selection.sparsifier, TopK):
            raise ParameterError(
                "blocks and N:M patterns keep the best as they are: the sparsifier must be top_k",
                pointer="/sparsifier",
            )
        scores: Scores = {}
        left_dense: dict[str, str] = {}
        for name, weight in selection.weights.items():
            score = selection.scores[name].expand_as(weight)
            matrix = flatten(score.masked_fill(~selection.masks[name], -math.inf))
            if matrix.shape[0] % rows or matrix.shape[1] % columns:
                left_dense[name] = (
                    f"its matrix of {matrix.shape[0]} x {matrix.shape[1]} weights does not divide "
                    f"into {rows} x {columns}"
                )
            else:
                scores[name] = matrix
        if not scores:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in left_dense.items())
            raise BudgetError(f"no layer can be pruned: {reasons}")
        total = sum(weight.numel() for weight in selection.weights.values())
        dense = sum(int(selection.masks[name].count_nonzero()) for name in left_dense)
        alive = sum(int((matrix > -math.inf).count_nonzero()) for matrix in scores.values())
        return Pattern(
            scores=scores,
            keep=min(count_to_keep(total, selection.density) - dense, alive),
            alive=alive,
            dense=dense,
            total=total,
            left_dense=left_dense,
        )

    def compute_density(self, kept: int) -> float:
        """Compute the density of all prunable weights with `kept` weights in these layers."""
        return (self.dense + kept) / self.total

    def select(self, selection: Selection, chosen: Masks) -> Selected:
        """Return the masks of the weights, from those of the matrices."""
        masks = {
            name: unflatten(mask, selection.weights[name].shape) for name, mask in chosen.items()
        }
        return Selected(selection.masks | masks, {}, self.left_dense)
