"""LAMP: magnitudes made comparable between layers.

Source: Lee, Park, Mo, Ahn and Shin, Layer-adaptive sparsity for the magnitude-based pruning, ICLR
2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruning.criteria import criteria
from pruning.evidence.evidence import Evidence
from pruning.types import Scores


@criteria.register("lamp")
@dataclass(frozen=True)
class LAMP:
    """Squared magnitude over that of all weights of its layer at least as large.

    It makes magnitudes comparable across layers.

    >>> layer = torch.nn.Linear(3, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, -2.0, 2.0]]))
    >>> LAMP().score(Evidence(layer))["weight"]
    tensor([[0.1111, 1.0000, 0.5000]], dtype=torch.float64)
    """

    allocation: ClassVar[str] = "global"

    def score(self, evidence: Evidence) -> Scores:
        """Compute s_u = theta_u^2 / sum_{v before or at u} theta_v^2, float64, shape of the weight.

        The weights that remain in a layer are taken in descending order of |theta|, of equal ones
        the first before the others. Within a layer the scores rank as the magnitudes do. The first
        of every layer scores exactly 1, which no other does: under `global` no layer is emptied
        before all are down to one weight. Zeros score 0, but for the first weight of a layer of
        zeros.
        """
        return {
            name: _score_layer(weight, evidence.masks[name])
            for name, weight in evidence.weights.items()
        }


def _score_layer(weight: Tensor, mask: Tensor) -> Tensor:
    magnitude = weight.abs().double().masked_fill(~mask, -1.0).flatten()
    falling, order = magnitude.sort(descending=True, stable=True)
    if falling[0] == 0:
        falling[0] = 1.0  # a layer of zeros
    squares = (falling / falling[0]).clamp_min(0.0).square()
    score = torch.empty_like(squares)
    score[order] = squares / squares.cumsum(0)
    return score.reshape(weight.shape)
