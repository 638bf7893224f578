"""Filter norms (FT in Lost in Pruning): filters with large weights matter.

Source: `FilterThresNet` (p = 1) and `SoftNet` (p = 2) of Lost in Pruning (Liebenwein et al., MLSys
2021); Li et al., Pruning filters for efficient ConvNets, ICLR 2017; He et al., Soft filter pruning,
IJCAI 2018.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch.linalg import vector_norm

from pruning.criteria import criteria
from pruning.evidence.evidence import Evidence
from pruning.evidence.filter_coupling import GRANULARITIES, Coupling
from pruning.types import Scores


@criteria.register("filter_norm")
@dataclass(frozen=True)
class FilterNorm:
    """Score ||W_f||_p of a filter or neuron: those with the largest weights remain (FT with p = 1).

    >>> from torch import nn, tensor
    >>> layer = nn.Linear(2, 2, bias=False)
    >>> _ = layer.weight.data.copy_(tensor([[-3.0, 4.0], [0.0, 6.0]]))
    >>> FilterNorm(p=1).score(Evidence(layer)), FilterNorm(p=2).score(Evidence(layer))
    ({'weight': tensor([[7.],
            [6.]])}, {'weight': tensor([[5.],
            [6.]])})
    """

    allocation: ClassVar[str] = "uniform"
    p: Literal[1, 2] = 1
    coupling: Coupling = "network"

    @property
    def granularity(self) -> str:
        """Channels of the network, or filters of each layer."""
        return GRANULARITIES[self.coupling]

    def score(self, evidence: Evidence) -> Scores:
        """Compute s_f = (sum over the filter's weights of |w|^p)^(1/p).

        Shape (out, 1, 1, 1) or (out, 1).
        """
        scores = {}
        for name, weight in evidence.weights.items():
            all_but_output = tuple(range(1, weight.dim()))
            scores[name] = vector_norm(weight, self.p, dim=all_but_output, keepdim=True)
        return scores
