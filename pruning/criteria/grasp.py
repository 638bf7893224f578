"""GraSP: keep what the gradient flow after pruning depends on.

Source: Wang, Zhang and Grosse, Picking winning tickets before training by preserving gradient flow,
ICLR 2020, and the code released with it. The weights are scored as they are: the released code
first initialises linear layers again, which is for the recipe to do, not for a criterion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pruning.criteria import criteria
from pruning.evidence.evidence import Batches, Evidence
from pruning.evidence.hessian import multiply_hessian
from pruning.evidence.local_models import FORWARD_AND_BACKWARD
from pruning.networks.modes import batch_statistics_mode, evaluate_mode
from pruning.types import Calibration, Scores

Differentiate = Callable[[Tensor, Sequence[Tensor]], tuple[Tensor, ...]]
"""A function of a loss and the weights to one derivative for each weight."""
EPSILON = 1e-10
"""Added to the sum that normalises, as in the released code."""


@criteria.register("grasp")
@dataclass(frozen=True)
class GraSP:
    """Gradient flow w (H g), negative where removal makes the gradient larger.

    Made for networks before training. At equal weights p = 1/2, so with label 0 g = (-1/2, 1/2), H
    = (1, -1; -1, 1) / 4 and H g = (-1, 1) / 4.

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
            description="statistics by which BatchNorm normalises: before training, the running "
            "ones say nothing yet"
        ),
    ] = "batch"

    def calibration(self, classes: int) -> Calibration:
        """Ask for `images_per_class` training images of every class."""
        return Calibration(self.images_per_class * classes, balanced=True)

    def units(self, classes: int) -> int:
        """Count a gradient, and a gradient of a gradient."""
        return 3 * FORWARD_AND_BACKWARD * self.images_per_class * classes

    def score(self, evidence: Evidence) -> Scores:
        """Compute s = theta (H g) / (sum |theta (H g)| + 1e-10), float64, shape of the weight.

        The smallest are removed. g and H are gradient and Hessian of the mean loss of logits / T
        over all batches, with respect to the weights that remain: two passes. As in the released
        code BatchNorm normalises by the batch (of a single image, and with "running", by its
        running statistics); all else is in eval mode, and the running statistics stay. Without
        BatchNorm the halves of the released code, or any other batches, sum up to the same.
        """
        gradient = self._average_gradient(evidence)
        vectors = {name: value * evidence.masks[name] for name, value in gradient.items()}
        product = self._average_product(evidence, vectors)
        flows = {name: product[name].double() * weight for name, weight in evidence.weights.items()}
        total = sum(float(flow.abs().sum()) for flow in flows.values()) + EPSILON
        return {name: flow / total for name, flow in flows.items()}

    def _average_gradient(self, evidence: Evidence) -> Scores:
        """Compute the mean over all images of g in one pass."""

        def differentiate(loss: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
            return torch.autograd.grad(loss, weights, materialize_grads=True)

        return self._sum_over_batches(evidence, differentiate)

    def _average_product(self, evidence: Evidence, vectors: Scores) -> Scores:
        """Compute the mean over all images of H times the vectors in one pass."""

        def differentiate_twice(loss: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
            gradients = torch.autograd.grad(
                loss, weights, create_graph=True, materialize_grads=True
            )
            return multiply_hessian(gradients, list(vectors.values()), weights)

        return self._sum_over_batches(evidence, differentiate_twice)

    def _sum_over_batches(self, evidence: Evidence, differentiate: Differentiate) -> Scores:
        """Sum what `differentiate` makes of each batch's share of the mean loss."""
        weights = [evidence.model.get_parameter(name) for name in evidence.weights]
        total = {name: torch.zeros_like(weight) for name, weight in evidence.weights.items()}
        images = sum(len(labels) for _, labels in evidence.batches)
        by_batch = self.batchnorm == "batch" and images > 1
        mode = batch_statistics_mode if by_batch else evaluate_mode
        for inputs, labels in _join_single_image(evidence.batches):
            share = len(labels) / images
            # Other kernels of attention cannot be differentiated twice.
            with mode(evidence.model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
                loss = evidence.loss(evidence.model(inputs) / self.temperature, labels) * share
                derivatives = differentiate(loss, weights)
            for name, derivative in zip(total, derivatives, strict=True):
                total[name] += derivative
        return total


def _join_single_image(batches: Batches) -> Batches:
    """Join a last batch of a single image with the batch before: alone it has no statistics."""
    if len(batches) < 2 or len(batches[-1][1]) > 1:
        return batches
    (inputs, labels), (last_inputs, last_labels) = batches[-2:]
    joined = torch.cat([inputs, last_inputs]), torch.cat([labels, last_labels])
    return [*batches[:-2], joined]
