"""N:M sparsity: of every M consecutive inputs N remain, the pattern that sparse matrix units
compute with.

Source: Zhou et al., Learning N:M fine-grained structured sparse neural networks from scratch, ICLR
2021; 2:4 is that of NVIDIA's sparse tensor cores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from pruning.allocations.global_ import Global
from pruning.errors import BudgetError, ParameterError
from pruning.granularities import granularities
from pruning.granularities._patterns import Pattern
from pruning.masks import count_to_keep, select_top_together
from pruning.types import Selected, Selection


@granularities.register("n_m")
@dataclass(frozen=True)
class NM:
    """At least the best N of every M consecutive inputs (channels first) remain.

    At density N/M exactly these remain.

    >>> from pruning.allocations import allocations
    >>> from pruning.sparsifiers import sparsifiers
    >>> layer = torch.nn.Linear(8, 1, bias=False)
    >>> scores = {"weight": torch.tensor([[9.0, 8.0, 7.0, 6.0, 1.0, 4.0, 2.0, 3.0]])}
    >>> def masks(density):
    ...     selection = Selection(
    ...         model=layer,
    ...         weights={"weight": layer.weight},
    ...         scores=scores,
    ...         masks={"weight": scores["weight"] > 0},
    ...         density=density,
    ...         allocation=allocations.create("global"),
    ...         sparsifier=sparsifiers.create("top_k"),
    ...         generator=torch.Generator(),
    ...         shape=lambda: (1, 1, 8),
    ...     )
    ...     return NM().select(selection).masks
    >>> masks(0.5)
    {'weight': tensor([[ True,  True, False, False, False,  True, False,  True]])}
    >>> masks(0.625)
    {'weight': tensor([[ True,  True,  True, False, False,  True, False,  True]])}
    """

    allocation: ClassVar[str] = "global"
    n: Annotated[int, Field(ge=1, le=63, description="weights that remain of every m")] = 2
    m: Annotated[int, Field(ge=2, le=64, description="consecutive inputs that belong together")] = 4

    def __post_init__(self) -> None:
        if self.n >= self.m:
            raise ParameterError(
                f"{self.n}:{self.m} removes nothing: n must be less than m",
                pointer="/granularity/params/n",
            )

    def select(self, selection: Selection) -> Selected:
        """Protect the N best of every M that remain, and fill up the density from the others.

        The others compete in one ranking over all layers. A weight is seen as a matrix (out, K),
        K = h w in, in which the input channel varies fastest. Layers whose K is not a multiple of M
        are left dense, so that the least density may be above N/M: a target from N/M up to that
        least yields the least. Returns the masks and the layers left dense. Raises `BudgetError`
        for a target below N/M that the protected weights exceed, `ParameterError` for allocations
        other than `global`.
        """
        if not isinstance(selection.allocation, Global):
            raise ParameterError(
                "an N:M pattern divides the budget itself: the allocation must be global",
                pointer="/allocation",
            )
        pattern = Pattern.from_selection(selection, 1, self.m)
        protected = {name: self._protect_best(matrix) for name, matrix in pattern.scores.items()}
        least = sum(int(mask.count_nonzero()) for mask in protected.values())
        target = count_to_keep(pattern.total, selection.density)
        if pattern.keep < least and target < count_to_keep(pattern.total, self.n / self.m):
            raise BudgetError(
                f"density {selection.density:.4g} cannot be reached with {self.n}:{self.m}: the "
                f"least is {pattern.compute_density(least):.4g}"
            )
        other_scores = [
            matrix.masked_fill(protected[name], -math.inf)
            for name, matrix in pattern.scores.items()
        ]
        filled = select_top_together(other_scores, max(0, pattern.keep - least))
        chosen = {
            name: mask | part for (name, mask), part in zip(protected.items(), filled, strict=True)
        }
        return pattern.select(selection, chosen)

    def _protect_best(self, matrix: Tensor) -> Tensor:
        """Select the n best of every m in a row, of equal ones the first, as far as they remain."""
        groups = matrix.reshape(len(matrix), -1, self.m)
        best = groups.argsort(dim=2, descending=True, stable=True)[..., : self.n]
        is_best = torch.zeros_like(groups, dtype=torch.bool).scatter_(2, best, True)
        return (is_best & (groups > -math.inf)).reshape(matrix.shape)
