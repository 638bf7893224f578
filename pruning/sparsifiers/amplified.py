"""Draws repeated for every filter: the best draw on held-out images remains.

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
    """The best of several draws of every filter, by its mean relative error on held-out images.

    It is biased. Each repetition is a draw of `sample`, right on average; the one chosen is not, as
    it is chosen by what was drawn: a bound has to hold for all repetitions together. `repeats` is
    ceil(ln(4 eta / delta) / ln(10 / 9)) by default, eta the filters of the layer (the paper counts
    those of the network, which a layer does not know).

    Two draws of three equal weights count 1.5 each; the third input is zero in this example, and
    1.5 is nearest to the 2 that the others make:

    >>> from pruning.types import LayerView
    >>> view = LayerView(1, lambda: torch.tensor([1.0, 1.0, 0.0]).reshape(1, 1, 3, 1))
    >>> weight = torch.ones(1, 3)
    >>> generator = torch.Generator().manual_seed(0)
    >>> sparse = Amplified(repeats=50).sparsify_seeing(weight, weight, 2, generator, view)
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
        """Always raise `EvidenceError`, since repetitions are compared on inputs.

        Unsuitable scores raise `ParameterError` first.
        """
        SignedRows.from_weight(weight, score)
        raise EvidenceError(
            "amplified compares draws by what a layer makes of images: it needs data and single "
            "weights"
        )

    def sparsify_seeing(
        self, weight: Tensor, score: Tensor, keep: int, generator: Generator, view: LayerView
    ) -> Sparse:
        """Choose the best of `repeats` draws w' of each filter i.

        It is the argmin of the mean over positions x of |(w'_i - w_i) x| / |w_i x|. Positions with
        |w_i x| <= 2^-23 do not count; of equal repetitions the first remains. Raises
        `ParameterError` for scores below 0 or of whole filters, `EvidenceError` without data.
        """
        sides = SignedRows.from_weight(weight, score)
        law = sides.build_law(sides.divide_budget(keep, self.division))
        if not bool((law.draws > 0).any()):  # nothing to choose from
            return reweight(weight, compute_reweighting_factors(law, generator), None)
        comparison = _Comparison.from_patches(weight, view.patches())
        best = compute_reweighting_factors(law, generator)
        least = comparison.sum_errors(best)
        repeats = self.repeats or count_repetitions(len(least), self.delta)
        for _ in range(repeats - 1):
            factor = compute_reweighting_factors(law, generator)
            error = comparison.sum_errors(factor)
            better = error < least
            least = torch.where(better, error, least)
            # Both sides of a filter are taken from the same draw.
            best = torch.where(better.repeat(2)[:, None], factor, best)
        return reweight(weight, best, replace(law, repeats=repeats))


@dataclass(frozen=True)
class _Comparison:
    """The outputs of a layer that draws of its weight are compared with."""

    inputs: Tensor
    """The inputs at the positions compared, (G, K, n)."""
    rows: Tensor
    """The weight, (G, out / G, K)."""
    outputs: Tensor
    """The outputs of the weight, (G, out / G, n)."""
    inverse: Tensor
    """1 / |outputs|, 0 where the output is as good as 0."""

    @staticmethod
    def from_patches(weight: Tensor, patches: Tensor) -> _Comparison:
        inputs = _space_positions(patches)
        rows = weight.double().reshape(len(inputs), -1, inputs.shape[1])
        outputs = rows @ inputs
        inverse = torch.where(outputs.abs() > SMALLEST, outputs.abs().reciprocal(), 0.0)
        return _Comparison(inputs=inputs, rows=rows, outputs=outputs, inverse=inverse)

    def sum_errors(self, factor: Tensor) -> Tensor:
        """Sum the relative errors of every filter's draw over the positions, (out,)."""
        drawn = self.rows * factor.reshape(2, -1).sum(0).reshape(self.rows.shape)
        return ((drawn @ self.inputs - self.outputs).abs() * self.inverse).sum(2).flatten()


def count_repetitions(filters: int, delta: float) -> int:
    """Compute tau = ceil(ln(4 eta / delta) / ln(10 / 9)).

    >>> count_repetitions(410, 0.1)
    93
    """
    return math.ceil(math.log(4 * filters / delta) / math.log(10 / 9))


def _space_positions(patches: Tensor) -> Tensor:
    """Take at most `COLUMNS` image positions, evenly spaced, float64, (G, K, n)."""
    flat = patches.permute(1, 2, 0, 3).flatten(2)
    step = max(1, -(-flat.shape[2] // COLUMNS))  # rounded up
    return flat[:, :, ::step].double()
