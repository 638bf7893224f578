"""Optimal Brain Damage (OBD): the curvature alone, as if the network were at a minimum.

Source: LeCun et al., Optimal Brain Damage, NeurIPS 1989; in stages and with a locality penalty in
Laurent et al., Revisiting loss modelling for unstructured pruning, 2020, and the code released with
it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pruning.criteria import criteria
from pruning.evidence.evidence import Evidence
from pruning.evidence.local_models import CurvedLocality, sum_removed
from pruning.types import Masks, Scores


@criteria.register("obd")
@dataclass(frozen=True)
class OBD(CurvedLocality):
    """Score |D w^2 / 2| + lambda / 2 w^2: curvature without gradient, in stages, with a penalty.

    Only the Hessian itself (`curvature` hessian or hutchinson) may have D < 0.

    At w = (ln 3, 0), p = (3/4, 1/4) and D = p (1 - p) = 3/16.

    >>> import torch
    >>> layer = torch.nn.Linear(1, 2, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[3.0], [1.0]]).log())
    >>> evidence = Evidence(layer, batches=[(torch.ones(1, 1), torch.tensor([1]))])
    >>> OBD(lambda_=0.0).score(evidence)["weight"].flatten()  # 3/32 (ln 3)^2
    tensor([0.1132, 0.0000])
    """

    supports_segmentation: ClassVar[bool] = False

    def score(self, evidence: Evidence) -> Scores:
        """Compute s = |D theta^2 / 2| + lambda / 2 theta^2, shape of the weight.

        D is the diagonal of the curvature.
        """
        return {
            name: change.abs() + self.penalty(evidence.weights[name])
            for name, change in self.quadratic(evidence).items()
        }

    def predict(self, evidence: Evidence, masks: Masks) -> float:
        """Compute the sum of D theta^2 / 2 over the weights removed."""
        return sum_removed(self.quadratic(evidence), evidence, masks)
