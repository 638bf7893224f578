"""Draws repeated for every filter, of which the best on held-out images remains.

Source: Baykal et al., Data-dependent coresets for compressing neural networks with applications to
generalization bounds, ICLR 2019 (CoreNet++); the number of repetitions as recalled, its logarithms
are not verified.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from pruning.errors import EvidenceError
from pruning.evidence.sensitivities import SMALLEST
from pruning.sparsifiers import sparsifiers
from pruning.sparsifiers._signed_rows import (
    Division,
    SignedRows,
    compute_reweighting_factors,
    reweight,
)
from pruning.types import LayerView, Sparse

COLUMNS = 4096
"""Image positions on which repetitions are compared, evenly spaced over all."""


@sparsifiers.register("amplified")
@dataclass(frozen=True)
class Amplified:
    """The best of several draws of every filter, by its mean relative error on held-out images:
    biased.

    Each repetition is a draw of `sample`, right on average; the one chosen is not, as it is chosen
    by what was drawn: a bound has to hold for all repetitions together. `repeats` is ceil(ln(4 eta
    / delta) / ln(10 / 9)) by default, eta the filters of the layer (the paper counts those of the
    network, which a layer does not know).

    Two draws of three weights that are alike count 1.5 each; the third input is zero here, and 1.5
    is nearest to the 2 that the others make:

    >>> from pruning.types import LayerView
    >>> view = LayerView(1, lambda: torch.tensor([1.0, 1.0, 0.0]).reshape(1, 1, 3, 1))
    >>> weight = torch.ones(1, 3)
    >>> sparse = Amplified(repeats=50).sparsify_seeing(
    ...     weight, weight, 2, torch.Generator().manual_seed(0), view
    ... )
    >>> sparse.weight[0, :2].sum()
    tensor(1.5000)
    """

    reweights: ClassVar[bool] = True
    repeats: Annotated[int, Field(ge=1, le=10_000)] | None = None
    delta: Annotated[
        float, Field(gt=0, lt=1, description="failure probability behind the number of repetitions")
    ] = 0.1
    division: Division = "sipp"

    def sparsify(self, weight: Tensor, score: Tensor, keep: int, generator: Generator) -> Sparse:
        """Always raises `EvidenceError` (or what is wrong with the scores): repetitions are
        compared on inputs.
        """
        SignedRows.of(weight, score)
        raise EvidenceError(
            "amplified compares draws by what a layer makes of images: it needs data and single "
            "weights"
        )

    def sparsify_seeing(
        self, weight: Tensor, score: Tensor, keep: int, generator: Generator, view: LayerView
    ) -> Sparse:
        """Of `repeats` draws w' of filter i, argmin of the mean over positions x of |(w'_i - w_i)
        x| / |w_i x|.

        Positions with |w_i x| <= 2^-23 do not count; of equal repetitions the first remains. Raises
        `ParameterError` for scores below 0 or of whole filters, `EvidenceError` without data.
        """
        sides = SignedRows.of(weight, score)
        law = sides.law(sides.counts(keep, self.division))
        if not bool((law.draws > 0).any()):  # nothing to choose from
            return reweight(weight, compute_reweighting_factors(law, generator), None)
        seen = _columns(view.patches())  # (G, K, n)
        rows = weight.double().reshape(len(seen), -1, seen.shape[1])  # (G, out / G, K)
        exact = rows @ seen
        inverse = torch.where(exact.abs() > SMALLEST, exact.abs().reciprocal(), 0.0)
        best = compute_reweighting_factors(law, generator)
        least = self._errors(best, rows, seen, exact, inverse)
        repeats = self.repeats or count_repetitions(len(least), self.delta)
        for _ in range(repeats - 1):
            factor = compute_reweighting_factors(law, generator)
            error = self._errors(factor, rows, seen, exact, inverse)
            better = error < least
            least = torch.where(better, error, least)
            best = torch.where(better.repeat(2)[:, None], factor, best)
        return reweight(weight, best, replace(law, repeats=repeats))

    @staticmethod
    def _errors(
        factor: Tensor, rows: Tensor, seen: Tensor, exact: Tensor, inverse: Tensor
    ) -> Tensor:
        """The sum of the relative errors of every filter, (out,)."""
        drawn = rows * factor.reshape(2, -1).sum(0).reshape(rows.shape)
        return ((drawn @ seen - exact).abs() * inverse).sum(2).flatten()


def count_repetitions(filters: int, delta: float) -> int:
    """tau = ceil(ln(4 eta / delta) / ln(10 / 9)).

    >>> count_repetitions(410, 0.1)
    93
    """
    return math.ceil(math.log(4 * filters / delta) / math.log(10 / 9))


def _columns(patches: Tensor) -> Tensor:
    """At most so many image positions, float64, (G, K, n)."""
    flat = patches.permute(1, 2, 0, 3).flatten(2)
    step = max(1, -(-flat.shape[2] // COLUMNS))
    return flat[:, :, ::step].double()
