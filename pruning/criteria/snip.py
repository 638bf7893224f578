"""SNIP: connection sensitivity, from one pass over a few images of every class.

Source: Lee, Ajanthan and Torr, SNIP: single-shot network pruning based on connection sensitivity,
ICLR 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from pruning.criteria import criteria
from pruning.evidence.evidence import Evidence
from pruning.evidence.local_models import FORWARD_AND_BACKWARD
from pruning.types import Calibration, Scores


@criteria.register("snip")
@dataclass(frozen=True)
class SNIP:
    """Connection sensitivity |g w|, normalised: what the loss loses first.

    Made for networks before training. With two outputs g = (p_0, -p_0) for label 1, whatever w is.

    >>> import torch
    >>> layer = torch.nn.Linear(1, 2, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[3.0], [-1.0]]))
    >>> evidence = Evidence(layer, batches=[(torch.ones(1, 1), torch.tensor([1]))])
    >>> SNIP().score(evidence)["weight"].flatten()
    tensor([0.7500, 0.2500], dtype=torch.float64)
    """

    images_per_class: Annotated[
        int, Field(ge=1, le=100_000, description="training images of every class")
    ] = 10

    def calibration(self, classes: int) -> Calibration:
        """Ask for `images_per_class` training images of every class."""
        return Calibration(self.images_per_class * classes, balanced=True)

    def units(self, classes: int) -> int:
        """Count one forward and backward pass."""
        return FORWARD_AND_BACKWARD * self.images_per_class * classes

    def score(self, evidence: Evidence) -> Scores:
        """Compute s = |g theta| / sum |g theta|, float64, shape of the weight.

        g is the gradient of the mean loss in eval mode (that with respect to a factor on every
        weight is g theta); what is pruned scores 0. The sum goes over all layers; where it is 0, so
        is every score.
        """
        sensitivities = {
            name: (evidence.gradient[name].double() * weight).abs()
            for name, weight in evidence.weights.items()
        }
        total = sum(float(score.sum()) for score in sensitivities.values()) or 1.0
        return {name: score / total for name, score in sensitivities.items()}
