"""Magnitude pruning (MP; WT in Lost in Pruning): large weights matter.

Source: Han et al., Learning both weights and connections, NeurIPS 2015; `ThresNet` of Lost in
Pruning.
"""

from __future__ import annotations

from dataclasses import dataclass

from pruning.criteria import criteria
from pruning.evidence.evidence import Evidence
from pruning.types import Scores


@criteria.register("magnitude")
@dataclass(frozen=True)
class Magnitude:
    """Score |w|: the largest weights remain (WT with the allocation `global`).

    >>> from torch import nn, tensor
    >>> layer = nn.Linear(2, 1, bias=False)
    >>> _ = layer.weight.data.copy_(tensor([[-3.0, 2.0]]))
    >>> Magnitude().score(Evidence(layer))
    {'weight': tensor([[3., 2.]])}
    """

    def score(self, evidence: Evidence) -> Scores:
        """Compute s = |w|, shape of the weight."""
        return {name: weight.abs() for name, weight in evidence.weights.items()}
