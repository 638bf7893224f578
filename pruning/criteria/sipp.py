"""SiPP: the weights that never have a large part in what their output receives are removed.

Source: Baykal et al., SiPPing neural networks: sensitivity-informed provable pruning of neural
networks, 2019; variants, constants and smallest sum of the code released with Lost in Pruning,
where the deterministic one is called SiPP.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from pruning.bounds import sipp
from pruning.bounds.forms import Paper, PrunedLayer
from pruning.bounds.sipp import coefficient
from pruning.criteria import criteria
from pruning.evidence.calibration import take_first
from pruning.evidence.evidence import Evidence
from pruning.evidence.sensitivities import (
    compute_sample_size,
    compute_sensitivities,
    count_known_positions,
)
from pruning.schemas.recipe import Method
from pruning.types import Calibration, Scores


@criteria.register("sipp")
@dataclass(frozen=True)
class SiPP:
    """Empirical sensitivity: the largest part, over images, that a weight has in the sum it enters.

    `deterministic` keeps the most sensitive weights of all layers. `randomized` divides the budget
    by its error bound, draws weights by their sensitivity and reweights them; `hybrid` draws filter
    by filter, where that has the smaller bound.

    >>> import torch
    >>> layer = torch.nn.Linear(4, 1)
    >>> _ = layer.weight.data.copy_(torch.tensor([[2.0, 1.0, -1.0, 0.5]]))
    >>> images = torch.tensor([[1.0, 1.0, 1.0, 2.0], [0.0, 3.0, 1.0, 0.0]])
    >>> SiPP().score(Evidence(layer, batches=[(images, torch.zeros(2))], shape=(1, 1, 4)))
    {'weight': tensor([[0.5000, 1.0000, 1.0000, 0.2500]])}
    """

    variant: Literal["deterministic", "randomized", "hybrid"] = "deterministic"
    delta: Annotated[
        float, Field(ge=1e-100, lt=1, description="failure probability of the bound")
    ] = 1e-16
    c: Annotated[
        float, Field(gt=0, le=100, description="constant of the bound and of the number of images")
    ] = 3.0

    @property
    def allocation(self) -> str:
        """The allocation of the variant: all layers compete, or the least sum of error bounds."""
        return "global" if self.variant == "deterministic" else "bound_optimal"

    @property
    def sparsifier(self) -> str | Method:
        """The sparsifier of the variant: the best as they are, draws, or the better by filter."""
        if self.variant == "hybrid":
            return Method(name="hybrid", params={"c": self.c, "delta": self.delta})
        return "top_k" if self.variant == "deterministic" else "sample"

    def calibration(self, classes: int) -> Calibration:
        """Ask for as many images as |S| is for a network of 10^7 times 10^7 outputs.

        Of them the first |S| are used.
        """
        return Calibration(math.ceil(self.c * math.log(8e14 / self.delta)))

    def units(self, classes: int) -> int:
        """Count a forward pass, and two products (or comparisons) of its size for every image."""
        return 3 * self.calibration(classes).images

    def score(self, evidence: Evidence) -> Scores:
        """Compute s_ij = max over x in S of the mean over positions of |w_ij| a_j / z_i.

        z_i is the sum over the weights of the sign of w_ij. |S| = ceil(c ln(8 eta_max eta / delta))
        images, fewer where there are no more. The other variants take the maximum over positions,
        times alpha_l = 2 c ln(8 (P_l + 1) kappa_l / delta), by which `bound_optimal` weighs layers
        against each other. Shape of the weight, in the precision of the network. Raises
        `EvidenceError` without data, or for a weight used without a call of its layer.
        """
        model = evidence.model
        names = list(evidence.weights)
        positions = count_known_positions(evidence)
        size = compute_sample_size(model, positions, delta=self.delta, c=self.c)
        batches = take_first(evidence.batches, size)
        if self.variant == "deterministic":
            return compute_sensitivities(model, names, batches, "mean")
        return {
            name: score * coefficient(positions[name], score[0, 0].numel(), self.delta, self.c)
            for name, score in compute_sensitivities(model, names, batches, "max").items()
        }

    def bound(self, layer: PrunedLayer) -> Paper:
        """Compute `pruning.bounds.sipp.bound_errors` with these constants."""
        alpha = coefficient(layer.positions, layer.kernel, self.delta, self.c)
        return sipp.bound_errors(
            layer, alpha, self.delta, self.c, scaled=self.variant != "deterministic"
        )
