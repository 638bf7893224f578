"""Quadratic model of the loss (QM): gradient and curvature, so that it holds away from a minimum
too.

Source: Laurent et al., Revisiting loss modelling for unstructured pruning, 2020, and the code
released with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pruning.criteria import criteria
from pruning.evidence.evidence import Evidence
from pruning.evidence.local_models import CurvedLocality, predict_linear, sum_removed
from pruning.types import Masks, Scores


@criteria.register("qm")
@dataclass(frozen=True)
class QM(CurvedLocality):
    """Score |-g w + D w^2 / 2| + lambda / 2 w^2: the loss to second order, in stages, penalised.

    At w = (ln 3, 0), p = (3/4, 1/4): with label 1, g = (3/4, -3/4), and D = p (1 - p) = 3/16.

    >>> import torch
    >>> layer = torch.nn.Linear(1, 2, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[3.0], [1.0]]).log())
    >>> evidence = Evidence(layer, batches=[(torch.ones(1, 1), torch.tensor([1]))])
    >>> QM(lambda_=0.0).score(evidence)["weight"].flatten()  # |-3/4 ln 3 + 3/32 (ln 3)^2|
    tensor([0.7108, 0.0000])
    """

    supports_segmentation: ClassVar[bool] = False

    def score(self, evidence: Evidence) -> Scores:
        """Compute s = |-g theta + D theta^2 / 2| + lambda / 2 theta^2, shape of the weight.

        D is the diagonal of the curvature.
        """
        weights = evidence.weights
        return {
            name: change.abs() + self.penalty(weights[name])
            for name, change in self._predict_changes(evidence).items()
        }

    def predict(self, evidence: Evidence, masks: Masks) -> float:
        """Compute the sum of -g theta + D theta^2 / 2 over the weights removed."""
        return sum_removed(self._predict_changes(evidence), evidence, masks)

    def _predict_changes(self, evidence: Evidence) -> Scores:
        quadratic = self.quadratic(evidence)
        return {name: change + quadratic[name] for name, change in predict_linear(evidence).items()}
