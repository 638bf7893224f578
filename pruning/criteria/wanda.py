"""Wanda: magnitude times the norm of the input that it multiplies.

Source: Sun, Liu, Bair and Kolter, A simple and effective pruning approach for large language
models, ICLR 2024; for convolutions the inputs are unfolded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from pruning.criteria import criteria
from pruning.errors import ScoreError
from pruning.evidence.evidence import Evidence
from pruning.networks.layers import Layer, count_groups, extract_patches, record_uses
from pruning.networks.modes import evaluate_mode
from pruning.types import Calibration, Scores


@criteria.register("wanda")
@dataclass(frozen=True)
class Wanda:
    """Score |w_ij| ||x_j||, compared within each row (output) of the weight; no gradients.

    >>> layer = torch.nn.Linear(2, 2, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, -2.0], [3.0, 1.0]]))
    >>> evidence = Evidence(
    ...     layer, batches=[(torch.tensor([[3.0, 1.0], [4.0, 0.0]]), torch.tensor([0, 1]))]
    ... )
    >>> Wanda(per_row=False).score(evidence)["weight"]
    tensor([[ 5.,  2.],
            [15.,  1.]], dtype=torch.float64)
    >>> Wanda().score(evidence)["weight"]
    tensor([[0.8750, 0.2500],
            [1.0000, 0.1250]], dtype=torch.float64)
    """

    allocation: ClassVar[str] = "uniform"
    images: Annotated[int, Field(ge=1, le=1_000_000, description="training images")] = 1000
    per_row: Annotated[
        bool, Field(description="score by rank within the row, so that all rows keep as many")
    ] = True

    def calibration(self, classes: int) -> Calibration:
        """So many training images at random."""
        return Calibration(self.images)

    def units(self, classes: int) -> int:
        """One forward pass."""
        return self.images

    def score(self, evidence: Evidence) -> Scores:
        """s_ij = |W_ij| ||X_j||_2, float64, shape of the weight; X_j is input j over all images and
        positions.

        With `per_row` its rank instead: (K - 1 - r + t) / K in (0, 1], r = 0 ... K - 1 the rank
        within the row from the top and t in (0, 1] the quantile of s within the layer, so that a
        layer's share is spent on all rows alike (one more or less), wherever they have as many
        weights left.
        """
        norms = _squares(evidence)
        found = {}
        for name, weight in evidence.weights.items():
            rows = weight.double().abs().reshape(len(norms[name]), -1, norms[name].shape[-1])
            score = (rows * norms[name].sqrt()[:, None, :]).reshape(weight.shape)
            if not torch.isfinite(score).all():
                raise ScoreError(
                    f"{name}: {int((~torch.isfinite(score)).sum())} scores are no finite numbers"
                )
            found[name] = _ranked(score, evidence.masks[name]) if self.per_row else score
        return found


def _squares(evidence: Evidence) -> Scores:
    """sum of X_j^2 by name, for every group of a layer, (G, K); unfolding moves the squares as it
    moves the inputs.
    """
    total: dict[str, Tensor] = {}
    called: set[str] = set()
    for module_name, module in evidence.model.named_modules():
        name = f"{module_name}.weight" if module_name else "weight"
        if name in evidence.weights:
            weight = evidence.weights[name]
            assert isinstance(module, Layer)
            total[name] = torch.zeros(
                count_groups(module), weight[0].numel(), dtype=torch.float64, device=weight.device
            )
    for inputs, _ in evidence.batches:
        with (
            evaluate_mode(evidence.model),
            torch.no_grad(),
            record_uses(evidence.model, total) as uses,
        ):
            evidence.model(inputs)
        called.update(name for name, calls in uses.items() if calls)
        for name, calls in uses.items():
            for use in calls:
                squares = use.inputs.double().square().sum(0, keepdim=True)
                total[name] += extract_patches(use.layer, squares)[0].sum(-1)
    for name in total.keys() - called:
        evidence.refuse_hidden(name)
    return total


def _ranked(score: Tensor, mask: Tensor) -> Tensor:
    """The rank within the row, made finer by that within the layer; what is pruned comes last."""
    rows = score.masked_fill(~mask, -1.0).flatten(1)
    place = _places(rows.flatten()[None])[0].reshape(rows.shape)
    return (1 - (_places(-place) + place / rows.numel()) / rows.shape[1]).reshape(score.shape)


def _places(rows: Tensor) -> Tensor:
    """The place of each entry in the descending order of its row, of equal ones the first first;
    float64.
    """
    order = rows.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(rows.shape[1], dtype=torch.float64, device=rows.device).expand_as(order)
    return torch.empty_like(rows).scatter_(1, order, places)
