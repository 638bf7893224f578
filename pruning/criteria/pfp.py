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
from pruning.evidence.filter_coupling import GRANULARITIES, Coupling
from pruning.evidence.sensitivities import (
    compute_sample_size,
    compute_sensitivities,
    count_known_positions,
)
from pruning.types import Calibration, Scores


@criteria.register("pfp")
@dataclass(frozen=True)
class PFP:
    """Sensitivity of a channel: the largest part of any of its weights in a sum of the next layer.

    `deterministic` keeps the most sensitive channels of a layer. `randomized` draws channels by
    their sensitivity and reweights what reads them; `top` keeps for certain those that would be
    drawn anyway, and draws the others.

    >>> import torch
    >>> layer = torch.nn.Linear(4, 1)
    >>> _ = layer.weight.data.copy_(torch.tensor([[2.0, 1.0, -1.0, 0.5]]))
    >>> images = torch.tensor([[1.0, 1.0, 1.0, 2.0], [0.0, 3.0, 1.0, 0.0]])
    >>> evidence = Evidence(layer, batches=[(images, torch.zeros(2))], shape=(1, 1, 4))
    >>> score = PFP().score(evidence)["weight"]
    >>> score / score.max()
    tensor([[0.5000, 1.0000, 1.0000, 0.2500]])
    """

    allocation: ClassVar[str] = "bound_optimal"
    variant: Literal["deterministic", "randomized", "top"] = "deterministic"
    delta: Annotated[
        float,
        Field(
            ge=1e-100, lt=1, description="failure probability of the bound behind the allocation"
        ),
    ] = 1e-16
    c: Annotated[
        float, Field(gt=0, le=100, description="constant of the bound and of the number of images")
    ] = 3.0
    coupling: Coupling = "network"

    @property
    def granularity(self) -> str:
        """Channels of the network, or input channels of each layer."""
        return GRANULARITIES[self.coupling]

    @property
    def sparsifier(self) -> str:
        """The sparsifier of the variant: the best as they are, draws, or both."""
        sparsifiers = {"deterministic": "top_k", "randomized": "sample", "top": "top_sample"}
        return sparsifiers[self.variant]

    def calibration(self, classes: int) -> Calibration:
        """Ask for as many images as |S| is for a network of 10^7 times 10^7 outputs.

        Of them the first |S| are used.
        """
        return Calibration(math.ceil(self.c * math.log(8e14 / self.delta)))

    def units(self, classes: int) -> int:
        """Count a forward pass and three comparisons of its size for every image."""
        return 4 * self.calibration(classes).images

    def score(self, evidence: Evidence) -> Scores:
        """Compute alpha_l s_j, s_j = max over x in S, filters, positions and the kernel of g.

        Shape (1, in, 1, 1) or (1, in). g is the part of a weight in the sum of its sign; |S| =
        ceil(c ln(8 eta_max eta / delta)) images, fewer where there are no more. alpha_l = 2 c ln(8
        (P_l + 1) kappa_l / delta) does not matter within a layer: `bound_optimal` weighs layers
        against each other by it. In a grouped convolution, j is the same position of every group.
        Raises `EvidenceError` without data, or for a weight used without a call of its layer.
        """
        model = evidence.model
        names = list(evidence.weights)
        positions = count_known_positions(evidence)
        size = compute_sample_size(model, positions, delta=self.delta, c=self.c)
        batches = take_first(evidence.batches, size)
        scores = {}
        for name, edges in compute_sensitivities(model, names, batches, "max").items():
            alpha = coefficient(positions[name], edges[0, 0].numel(), self.delta, self.c)
            all_but_input = [axis for axis in range(edges.dim()) if axis != 1]
            scores[name] = alpha * edges.amax(all_but_input, keepdim=True)
        return scores

    def bound(self, layer: PrunedLayer) -> Paper:
        """Compute `pruning.bounds.pfp.bound_errors` with these constants."""
        alpha = coefficient(layer.positions, layer.kernel, self.delta, self.c)
        return pfp.bound_errors(layer, alpha, self.delta, self.c)
