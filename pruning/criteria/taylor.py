"""First-order Taylor importance, squared by mini-batch.

Source: Molchanov, Mallya, Tyree, Frosio and Kautz, Importance estimation for neural network
pruning, CVPR 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field

from pruning.criteria import criteria
from pruning.evidence.evidence import Evidence
from pruning.evidence.local_models import FORWARD_AND_BACKWARD
from pruning.types import Calibration, Scores


@criteria.register("taylor")
@dataclass(frozen=True)
class Taylor:
    """Mean over mini-batches of (g w)^2: the squared first-order change of the loss.

    Signs do not cancel between batches. At equal weights p = 1/2: the gradients of two batches are
    (-1/2, 1/2) times their inputs, 1 and 2; (1 + 4) / 2 = 2.5.

    >>> layer = torch.nn.Linear(1, 2, bias=False)
    >>> _ = layer.weight.data.fill_(2.0)
    >>> batches = [(torch.tensor([[x]]), torch.tensor([0])) for x in (1.0, 2.0)]
    >>> Taylor().score(Evidence(layer, batches=batches))["weight"].flatten()
    tensor([2.5000, 2.5000], dtype=torch.float64)
    """

    images: Annotated[
        int, Field(ge=1, le=1_000_000, description="training images, in mini-batches of 100")
    ] = 1000

    def calibration(self, classes: int) -> Calibration:
        """Ask for `images` training images at random."""
        return Calibration(self.images)

    def units(self, classes: int) -> int:
        """Count one forward and backward pass."""
        return FORWARD_AND_BACKWARD * self.images

    def score(self, evidence: Evidence) -> Scores:
        """Compute s = (1/B) sum_b (g_b theta)^2, float64, shape of the weight.

        g_b is the gradient of the mean loss of batch b in eval mode; every batch counts equally, a
        smaller last one too. What is pruned scores 0.
        """
        total = {
            name: torch.zeros_like(weight, dtype=torch.float64)
            for name, weight in evidence.weights.items()
        }
        for _, gradient in evidence.batch_gradients():
            for name, weight in evidence.weights.items():
                total[name] += (gradient[name].double() * weight).square()
        return {name: score / len(evidence.batches) for name, score in total.items()}
