"""Linear model of the loss (LM): the importance of a weight is how far removing it moves the loss
to first order.

Source: Laurent et al., Revisiting loss modelling for unstructured pruning, 2020, and the code
released with it; Molchanov et al., Pruning convolutional neural networks for resource efficient
inference, ICLR 2017, for the linear term.
"""

from __future__ import annotations

from dataclasses import dataclass

from pruning.criteria import criteria
from pruning.evidence.evidence import Evidence
from pruning.evidence.local_models import Locality, predict_linear, sum_removed
from pruning.types import Masks, Scores


@criteria.register("lm")
@dataclass(frozen=True)
class LM(Locality):
    """Score |g w| + lambda / 2 w^2: the loss to first order, in stages, with a locality penalty.

    At w = (1, 0), p = softmax(w) = (0.7311, 0.2689): with label 1, g = (p_0, p_1 - 1).

    >>> import torch
    >>> layer = torch.nn.Linear(1, 2, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0], [0.0]]))
    >>> evidence = Evidence(layer, batches=[(torch.ones(1, 1), torch.tensor([1]))])
    >>> LM(lambda_=0.0).score(evidence)["weight"].flatten()
    tensor([0.7311, 0.0000])
    >>> round(LM().predict(evidence, {"weight": torch.tensor([[False], [True]])}), 4)
    -0.7311
    """

    def score(self, evidence: Evidence) -> Scores:
        """Compute s = |g theta| + lambda / 2 theta^2, shape of the weight.

        g is the gradient of the mean loss without weight decay.
        """
        return {
            name: change.abs() + self.penalty(evidence.weights[name])
            for name, change in predict_linear(evidence).items()
        }

    def predict(self, evidence: Evidence, masks: Masks) -> float:
        """Compute the sum of -g theta over the weights removed."""
        return sum_removed(predict_linear(evidence), evidence, masks)
