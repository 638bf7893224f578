"""Taylor expansion of filters: what the loss would change by without a filter, to first order.

Source: Molchanov, Mallya, Tyree, Frosio and Kautz, Importance estimation for neural network
pruning, CVPR 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from pruning.criteria import criteria
from pruning.evidence.evidence import Evidence
from pruning.types import Calibration, Scores


@criteria.register("taylor_filter")
@dataclass(frozen=True)
class TaylorFilter:
    """Squared first-order change of the loss when a filter is removed, averaged over mini-batches.

    A loss of 2 (w_1 + w_2) for x = 1 has the gradient (2, 2); both weights of the filter (3, -1)
    change it by 2 * 3 - 2 * 1.

    >>> from torch import nn, tensor
    >>> layer = nn.Linear(2, 1, bias=False)
    >>> _ = layer.weight.data.copy_(tensor([[3.0, -1.0]]))
    >>> batches = [(torch.ones(1, 2), tensor([0]))]
    >>> def loss(outputs, labels):
    ...     return 2 * outputs.sum()
    >>> TaylorFilter().score(Evidence(layer, batches=batches, loss=loss))
    {'weight': tensor([[16.]], dtype=torch.float64)}
    """

    allocation: ClassVar[str] = "global"
    granularity: ClassVar[str] = "channel"
    images: Annotated[int, Field(ge=1, le=1_000_000)] = 1000

    def calibration(self, classes: int) -> Calibration:
        """Ask for `images` training images at random, in the pipeline's mini-batches."""
        return Calibration(self.images)

    def units(self, classes: int) -> int:
        """Count one forward and one backward pass."""
        return 3 * self.images

    def score(self, evidence: Evidence) -> Scores:
        """Compute s_f = (1/B) sum_b (sum over the filter of g_b w)^2, float64.

        Shape (out, 1, 1, 1) or (out, 1). g_b is the gradient of the mean loss of mini-batch b, in
        eval mode. Raises `EvidenceError` without data.
        """
        scores = {
            name: weight.new_zeros((len(weight), *[1] * (weight.dim() - 1)), dtype=torch.float64)
            for name, weight in evidence.weights.items()
        }
        for _, gradient in evidence.batch_gradients():
            for name, weight in evidence.weights.items():
                all_but_output = tuple(range(1, weight.dim()))
                products = gradient[name].double() * weight.double()
                change = products.sum(all_but_output, keepdim=True)
                scores[name] += change.square() / len(evidence.batches)
        return scores
