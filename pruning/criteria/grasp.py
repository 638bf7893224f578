"""GraSP: keep what the gradient flow after pruning depends on.

Source: Wang, Zhang and Grosse, Picking winning tickets before training by preserving gradient flow,
ICLR 2020, and the code released with it. The weights are scored as they are: the released code
first initialises linear layers anew, which is for the recipe to do, not for a criterion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pruning.criteria import criteria
from pruning.evidence.evidence import Batches, Evidence
from pruning.evidence.local_models import PASS
from pruning.networks.modes import batch_statistics_mode, evaluate_mode
from pruning.types import Calibration, Scores

EPSILON = 1e-10
"""Added to the sum that normalises, as in the released code."""


@criteria.register("grasp")
@dataclass(frozen=True)
class GraSP:
    """Gradient flow w (H g), negative where removal makes the gradient larger; made for networks
    before training.

    At equal weights p = 1/2, so with label 0 g = (-1/2, 1/2), H = (1, -1; -1, 1) / 4 and H g = (-1,
    1) / 4.

    >>> layer = torch.nn.Linear(1, 2, bias=False)
    >>> _ = layer.weight.data.fill_(2.0)
    >>> evidence = Evidence(layer, batches=[(torch.ones(1, 1), torch.tensor([0]))])
    >>> GraSP(temperature=1.0).score(evidence)["weight"].flatten()
    tensor([-0.5000,  0.5000], dtype=torch.float64)
    """

    images_per_class: Annotated[
        int, Field(ge=1, le=100_000, description="training images of every class")
    ] = 10
    temperature: Annotated[
        float, Field(gt=0, le=1e6, description="the logits are divided by it")
    ] = 200.0
    batchnorm: Annotated[
        Literal["batch", "running"],
        Field(
            description="statistics by which BatchNorm normalises: before training, the running ones "
            "say nothing yet"
        ),
    ] = "batch"

    def calibration(self, classes: int) -> Calibration:
        """As many training images of every class."""
        return Calibration(self.images_per_class * classes, balanced=True)

    def units(self, classes: int) -> int:
        """A gradient, and a gradient of a gradient."""
        return 3 * PASS * self.images_per_class * classes

    def score(self, evidence: Evidence) -> Scores:
        """s = theta (H g) / (sum |theta (H g)| + 1e-10), float64, shape of the weight; the smallest
        are removed.

        g and H are gradient and Hessian of the mean loss of logits / T over all batches, with
        respect to the weights that remain: two passes. As in the released code BatchNorm normalises
        by the batch (of a single image, and with "running", by its running statistics); all else is
        in eval mode, and the running statistics stay. Without BatchNorm the halves of the released
        code, or any other batches, sum up to the same.
        """
        gradient = self._passed(evidence, None)
        product = self._passed(
            evidence, {name: value * evidence.masks[name] for name, value in gradient.items()}
        )
        found = {name: product[name].double() * weight for name, weight in evidence.weights.items()}
        total = sum(float(score.abs().sum()) for score in found.values()) + EPSILON
        return {name: score / total for name, score in found.items()}

    def _passed(self, evidence: Evidence, vectors: Scores | None) -> Scores:
        """One pass: the mean over all images of g, or of H times the vectors."""
        weights = [evidence.model.get_parameter(name) for name in evidence.weights]
        total = {name: torch.zeros_like(weight) for name, weight in evidence.weights.items()}
        images = sum(len(labels) for _, labels in evidence.batches)
        mode = batch_statistics_mode if self.batchnorm == "batch" and images > 1 else evaluate_mode
        for inputs, labels in _joined(evidence.batches):
            with (
                mode(evidence.model),
                torch.enable_grad(),
                sdpa_kernel(SDPBackend.MATH),
            ):  # differentiable twice
                loss = evidence.loss(evidence.model(inputs) / self.temperature, labels) * (
                    len(labels) / images
                )
                found = torch.autograd.grad(
                    loss, weights, create_graph=vectors is not None, materialize_grads=True
                )
                if vectors is not None:
                    found = _products(found, list(vectors.values()), weights)
            for name, value in zip(total, found, strict=True):
                total[name] += value
        return total


def _joined(batches: Batches) -> Batches:
    """The batches, a last one of a single image joined with the one before: alone it has no
    statistics.
    """
    if len(batches) < 2 or len(batches[-1][1]) > 1:
        return batches
    before, last = batches[-2:]
    return [*batches[:-2], (torch.cat([before[0], last[0]]), torch.cat([before[1], last[1]]))]


def _products(
    gradients: tuple[Tensor, ...], vectors: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The gradient of sum g v: 0 where the loss is linear in the weights."""
    flow = torch.stack(
        [(gradient * vector).sum() for gradient, vector in zip(gradients, vectors, strict=True)]
    ).sum()
    if not flow.requires_grad:
        return tuple(torch.zeros_like(weight) for weight in weights)
    return torch.autograd.grad(flow, weights, materialize_grads=True)
