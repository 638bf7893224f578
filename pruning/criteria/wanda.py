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
    >>> images, labels = torch.tensor([[3.0, 1.0], [4.0, 0.0]]), torch.tensor([0, 1])
    >>> evidence = Evidence(layer, batches=[(images, labels)])
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
        """Ask for `images` training images at random."""
        return Calibration(self.images)

    def units(self, classes: int) -> int:
        """Count one forward pass."""
        return self.images

    def score(self, evidence: Evidence) -> Scores:
        """Compute s_ij = |W_ij| ||X_j||_2, float64, shape of the weight.

        X_j is input j over all images and positions. With `per_row` its rank instead: (K - 1 - r +
        t) / K in (0, 1], r = 0 ... K - 1 the rank within the row from the top and t in (0, 1] the
        quantile of s within the layer, so that a layer's share is divided equally over its rows
        (one more or less), wherever they have as many weights left.
        """
        squares = _sum_squares(evidence)
        scores = {}
        for name, weight in evidence.weights.items():
            norms = squares[name].sqrt()
            rows = weight.double().abs().reshape(len(norms), -1, norms.shape[-1])
            score = (rows * norms[:, None, :]).reshape(weight.shape)
            infinite = int((~torch.isfinite(score)).sum())
            if infinite:
                raise ScoreError(f"{name}: {infinite} scores are not finite")
            scores[name] = _rank_by_row(score, evidence.masks[name]) if self.per_row else score
        return scores


def _sum_squares(evidence: Evidence) -> Scores:
    """Compute the sum of X_j^2 by name, for every group of a layer, (G, K)."""
    total = _build_zeros(evidence)
    called: set[str] = set()
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
                # Unfolding moves the squares as it moves the inputs: sum over the images first.
                squares = use.inputs.double().square().sum(0, keepdim=True)
                total[name] += extract_patches(use.layer, squares)[0].sum(-1)
    for name in total.keys() - called:
        evidence.refuse_hidden(name)
    return total


def _build_zeros(evidence: Evidence) -> Scores:
    layers = {
        id(module.weight): module
        for module in evidence.model.modules()
        if isinstance(module, Layer)
    }
    zeros: Scores = {}
    for name, weight in evidence.weights.items():
        layer = layers.get(id(evidence.model.get_parameter(name)))
        groups = 1 if layer is None else count_groups(layer)
        shape = groups, weight[0].numel()
        zeros[name] = torch.zeros(shape, dtype=torch.float64, device=weight.device)
    return zeros


def _rank_by_row(score: Tensor, mask: Tensor) -> Tensor:
    """Rank the scores within their row, made finer by the rank within the layer.

    What is pruned comes last.
    """
    rows = score.masked_fill(~mask, -1.0).flatten(1)
    layer_rank = _rank_from_largest(rows.flatten()[None])[0].reshape(rows.shape)
    # The best have the lowest rank, hence the sign.
    row_rank = _rank_from_largest(-layer_rank)
    return (1 - (row_rank + layer_rank / rows.numel()) / rows.shape[1]).reshape(score.shape)


def _rank_from_largest(rows: Tensor) -> Tensor:
    """Rank each entry in the descending order of its row, the first of equal ones first."""
    order = rows.argsort(dim=1, descending=True, stable=True)
    ranks = torch.arange(rows.shape[1], dtype=torch.float64, device=rows.device).expand_as(order)
    return torch.empty_like(rows).scatter_(1, order, ranks)
