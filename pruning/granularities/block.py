"""Block sparsity: neighbouring weights are removed together.

Source: Narang, Undersander and Diamos, Block-sparse recurrent neural networks, 2017; sums of
saliencies for loss models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from pruning.errors import BudgetError
from pruning.granularities import granularities
from pruning.granularities._patterns import Pattern
from pruning.masks import list_layer_shapes, select_top
from pruning.types import Budget, Masks, Scores, Selected, Selection


@granularities.register("block")
@dataclass(frozen=True)
class Block:
    """Blocks of `rows` outputs by `columns` inputs; a block's score is the sum of its members'.

    A weight is seen as a matrix (out, K) with the input channel fastest, K = h w in. Layers that do
    not divide are left dense, and the others make up for them.

    >>> import torch
    >>> from pruning.allocations import allocations
    >>> from pruning.sparsifiers import sparsifiers
    >>> layer = torch.nn.Linear(4, 2, bias=False)
    >>> scores = {"weight": torch.tensor([[5.0, 0.0, 2.0, 2.0], [1.0, 1.0, 3.0, 3.0]])}
    >>> masks = {"weight": torch.ones(2, 4, dtype=torch.bool)}
    >>> selection = Selection(
    ...     model=layer,
    ...     weights={"weight": layer.weight},
    ...     scores=scores,
    ...     masks=masks,
    ...     density=0.5,
    ...     allocation=allocations.create("global"),
    ...     sparsifier=sparsifiers.create("top_k"),
    ...     generator=torch.Generator(),
    ...     shape=lambda: (1, 1, 4),
    ... )
    >>> Block(rows=1, columns=2).select(selection).masks
    {'weight': tensor([[ True,  True, False, False],
            [False, False,  True,  True]])}
    """

    rows: Annotated[int, Field(ge=1, le=1024, description="outputs")] = 1
    columns: Annotated[
        int, Field(ge=1, le=1024, description="consecutive inputs, channels first")
    ] = 4

    def select(self, selection: Selection) -> Selected:
        """Select the best blocks of each layer's share.

        The density is at most the target and less than a block below it. Members that are pruned
        already count nothing; a block is dead when all its members are. Where blocks are pruned in
        part, the largest number of blocks that does not exceed the density is found by bisection.
        Raises `BudgetError` where not one block fits.
        """
        pattern = Pattern.from_selection(selection, self.rows, self.columns)
        if pattern.keep == pattern.alive:
            return Selected(selection.masks, {}, pattern.left_dense)
        size = self.rows * self.columns
        scores = {name: self._score_blocks(matrix) for name, matrix in pattern.scores.items()}
        units = sum(int((score > -math.inf).count_nonzero()) for score in scores.values())

        def choose(count: int) -> Masks:
            return self._choose_blocks(selection, pattern.scores, scores, count * size)

        blocks = max(0, pattern.keep // size)
        if pattern.alive < units * size:  # some blocks are pruned in part, so that more may fit
            too_many = units
            while too_many - blocks > 1:
                middle = (blocks + too_many) // 2
                kept = sum(int(mask.count_nonzero()) for mask in choose(middle).values())
                if kept <= pattern.keep:
                    blocks = middle
                else:
                    too_many = middle
        if not blocks:
            raise BudgetError(
                f"density {selection.density:.4g} cannot be reached with blocks of {self.rows} x "
                f"{self.columns}: with the layers left dense and one block it is "
                f"{pattern.compute_density(size):.4g}"
            )
        return pattern.select(selection, choose(blocks))

    def _choose_blocks(
        self, selection: Selection, members: Scores, scores: Scores, keep: int
    ) -> Masks:
        """Choose the best blocks of each layer; their members that are pruned stay pruned."""
        sizes = {name: members[name].numel() for name in scores}
        budget = Budget(keep, sizes, list_layer_shapes(selection.model))
        keeps = budget.check_keeps(selection.allocation.allocate(scores, budget))
        masks: Masks = {}
        for name, score in scores.items():
            mask = select_top(score, keeps[name] // (self.rows * self.columns))
            spread = mask.repeat_interleave(self.rows, 0).repeat_interleave(self.columns, 1)
            masks[name] = spread & (members[name] > -math.inf)
        return masks

    def _score_blocks(self, matrix: Tensor) -> Tensor:
        """Sum over the members that remain, (out / rows, K / columns); -inf where none does."""
        rows = matrix.reshape(matrix.shape[0] // self.rows, self.rows, -1, self.columns)
        members = rows.transpose(1, 2).flatten(2)
        dead = members == -math.inf
        return members.masked_fill(dead, 0.0).sum(2).masked_fill(dead.all(2), -math.inf)
