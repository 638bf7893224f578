"""PFP: channels that never have a large part in what the next layer receives are removed.

Source: Liebenwein, Baykal, Lang, Feldman and Rus, Provable filter pruning for efficient neural
networks, ICLR 2020; variants, constants and reductions of the code released with Lost in Pruning,
where the deterministic one is called PFP.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pruning.bounds import pfp
from pruning.bounds.forms import Paper, PrunedLayer
from pruning.bounds.sipp import coefficient
from pruning.criteria import criteria
from pruning.evidence.calibration import take_first
from pruning.evidence.evidence import Evidence
from pruning.evidence.sensitivities import (
    compute_sensitivities,
    count_output_positions,
    sample_size,
)
from pruning.types import Calibration, Scores


@criteria.register("pfp")
@dataclass(frozen=True)
class PFP:
    """Sensitivity of a channel: the largest part that any of its weights in the next layer ever has
    in a sum.

    `deterministic` keeps the most sensitive channels of a layer. `randomized` draws channels by
    their sensitivity and reweights what reads them; `top` keeps for certain those that would be
    drawn anyway, and draws the others.

    >>> import torch
    >>> layer = torch.nn.Linear(4, 1)
    >>> _ = layer.weight.data.copy_(torch.tensor([[2.0, 1.0, -1.0, 0.5]]))
    >>> images = torch.tensor([[1.0, 1.0, 1.0, 2.0], [0.0, 3.0, 1.0, 0.0]])
    >>> score = PFP().score(Evidence(layer, batches=[(images, torch.zeros(2))], shape=(1, 1, 4)))[
    ...     "weight"
    ... ]
    >>> score / score.max()
    tensor([[0.5000, 1.0000, 1.0000, 0.2500]])
    """

    allocation: ClassVar[str] = "bound_optimal"
    granularity: ClassVar[str] = "channel"
    variant: Literal["deterministic", "randomized", "top"] = "deterministic"
    delta: Annotated[
        float,
        Field(gt=0, lt=1, description="failure probability of the bound behind the allocation"),
    ] = 1e-16
    c: Annotated[
        float, Field(gt=0, le=100, description="constant of the bound and of the number of images")
    ] = 3.0

    @property
    def sparsifier(self) -> str:
        """The best as they are, draws, or draws after what would be drawn anyway."""
        return {"deterministic": "top_k", "randomized": "sample", "top": "top_sample"}[self.variant]

    def calibration(self, classes: int) -> Calibration:
        """As many as |S| is for a network of 10^7 times 10^7 outputs; of them the first |S| are
        used.
        """
        return Calibration(math.ceil(self.c * math.log(8e14 / self.delta)))

    def units(self, classes: int) -> int:
        """A forward pass and three comparisons of its size for every image."""
        return 4 * self.calibration(classes).images

    def score(self, evidence: Evidence) -> Scores:
        """alpha_l s_j, s_j = max over x in S, filters, positions and the kernel of g, shape (1, in,
        1, 1) or (1, in).

        g is the part of a weight in the sum of its sign; |S| = ceil(c ln(8 eta_max eta / delta))
        images, fewer where there are no more. alpha_l = 2 c ln(8 (P_l + 1) kappa_l / delta) does
        not matter within a layer: `bound_optimal` weighs layers against each other by it. In a
        grouped convolution, j is the same position of every group.
        """
        model, names, image = evidence.model, list(evidence.weights), evidence.batches[0][0][:1]
        given = take_first(evidence.batches, sample_size(model, names, image, self.delta, self.c))
        positions = count_output_positions(model, names, image)
        found = {}
        for name, edges in compute_sensitivities(model, names, given, "max").items():
            alpha = coefficient(positions[name], edges[0, 0].numel(), self.delta, self.c)
            found[name] = alpha * edges.amax(
                [axis for axis in range(edges.dim()) if axis != 1], keepdim=True
            )
        return found

    def bound(self, layer: PrunedLayer) -> Paper:
        """`pruning.bounds.pfp.bound_errors` with these constants."""
        return pfp.bound_errors(
            layer,
            coefficient(layer.positions, layer.kernel, self.delta, self.c),
            self.delta,
            self.c,
        )
