"""Optimal brain surgeon column by column, with one Hessian for all rows of a layer: the update of
SparseGPT, for masks that are chosen beforehand.

Source: Frantar and Alistarh, SparseGPT: massive language models can be accurately pruned in
one-shot, ICML 2023.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruning.criteria import criteria
from pruning.evidence.damped_layers import (
    BlockSize,
    DampedLayer,
    Damping,
    HessianImages,
    damp_layers,
)
from pruning.evidence.evidence import Evidence
from pruning.evidence.layer_hessians import count_block
from pruning.evidence.quadratic_models import invert
from pruning.types import Calibration, Masks, Scores

COLUMNS = 128
"""The columns whose changes are carried to the columns after them at once, as in the paper."""


@criteria.register("column_obs")
@dataclass(frozen=True)
class ColumnOBS:
    """Squared error of a layer's outputs, weights removed from the first input to the last.

    With H = (2/n) sum_i X_i X_i^T over the layer's inputs, damped, and H^-1 = U^T U, U an upper
    triangle, weight j of a row loses w_j^2 / (2 U_jj^2) when the weights after it make up for it.
    All rows of a group share U, so that time is inputs^3 plus rows times inputs^2 for each layer,
    where `exact_obs` takes rows times inputs^3: weights after a removed one make up for it, those
    before it do not. The update is SparseGPT's. Its masks are chosen on the way, a block of columns
    at a time; here the allocation and the granularity choose them beforehand, from the scores of
    all weights, so that the criterion does not bear its name. Where `exact_obs` can be afforded it
    is better: of a ResNet-20 without retraining it left 21.6 % error at a sparsity of 70 % where
    this left 26.7 %, and 19.9 against 20.1 % at 50 %. A layer may have 8,192 inputs; with
    `block_size`, any number, as in `exact_obs`.

    The first of two inputs that are always equal is removed at no cost, as the second takes its
    place; the second has nothing after it.

    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 2.0]]))
    >>> images = torch.tensor([[1.0, 1.0], [3.0, 3.0]])
    >>> evidence = Evidence(layer, batches=[(images, torch.zeros(2, 1))])
    >>> criterion = ColumnOBS(damping=1e-9)
    >>> criterion.score(evidence)["weight"].round(decimals=4)
    tensor([[ 0., 20.]], dtype=torch.float64)
    >>> masks = {"weight": torch.tensor([[False, True]])}
    >>> criterion.compensate(evidence, masks)["weight"].round(decimals=4)
    tensor([[0., 3.]])
    """

    allocation: ClassVar[str] = "uniform"

    images: HessianImages = 1000
    damping: Damping = 0.01
    block_size: BlockSize = None

    def calibration(self, classes: int) -> Calibration:
        """Ask for `images` images at random; labels are not used."""
        return Calibration(self.images)

    def units(self, classes: int) -> int:
        """Count the Hessians, which take most of the time: 10 forward passes of an image."""
        return 10 * self.images

    def memory(self, shapes: Collection[Sequence[int]], images: int) -> int:
        """Estimate the bytes of the float64 matrices: the Hessians of all layers, and three more of
        the layer at hand (damped, inverse, triangle).
        """
        hessians = []
        for shape in shapes:
            size, blocks = count_block(math.prod(shape[1:]), self.block_size)
            hessians.append(blocks * size**2)
        return 8 * (sum(hessians) + 3 * max(hessians))

    def score(self, evidence: Evidence) -> Scores:
        """Compute s_j = w_j^2 / (2 U_jj^2), float64, shape of the weight.

        It is zero for weights on inputs that are always zero. Raises `ScoreError` where H is not
        positive definite to rounding, and as `compute_layer_hessians`.
        """
        scores = {}
        for name, layer in damp_layers(evidence, evidence.masks, self.damping, self.block_size):
            lengths = _factor_inverse(layer).diagonal(dim1=1, dim2=2)
            costs = layer.rows.square() / (2 * lengths.square())[layer.group]
            costs = costs.masked_fill(layer.dead[layer.group], 0.0)
            scores[name] = layer.join_blocks(costs, evidence.weights[name])
        return scores

    def compensate(self, evidence: Evidence, masks: Masks) -> Scores:
        """Compute, for j from the first input to the last, w <- w - (w_j / U_jj) U_j where the mask
        removes w_j.

        U_j is row j of U: the change that the weights from j on make so that w_j becomes zero at
        the least cost. Zero where `masks` prune.
        """
        weights = {}
        for name, layer in damp_layers(evidence, masks, self.damping, self.block_size):
            triangles = _factor_inverse(layer)
            moved = torch.empty_like(layer.rows)
            for number, triangle in enumerate(triangles):
                rows = layer.group == number
                moved[rows] = _remove_columns(layer.rows[rows], layer.keep[rows], triangle)
            weight = evidence.weights[name]
            weights[name] = layer.join_blocks(moved, weight).to(weight.dtype)
        return weights


def _factor_inverse(layer: DampedLayer) -> Tensor:
    """The upper triangles U of H^-1 = U^T U, (G, K, K)."""
    triangles: Tensor = torch.linalg.cholesky(invert(layer.hessian), upper=True)
    return triangles


def _remove_columns(rows: Tensor, keep: Tensor, triangle: Tensor) -> Tensor:
    """Rows (R, K) without the weights that `keep` is False for, (R, K); U is (K, K).

    Changes are carried to later blocks of columns at once, by one product of matrices.
    """
    rows = rows.clone()
    for start in range(0, rows.shape[1], COLUMNS):
        stop = min(start + COLUMNS, rows.shape[1])
        block = rows[:, start:stop]
        errors = torch.zeros_like(block)
        for column in range(stop - start):
            row_of_u = triangle[start + column, start + column : stop]
            errors[:, column] = block[:, column].masked_fill(keep[:, start + column], 0.0)
            errors[:, column] /= row_of_u[0]
            block[:, column:] -= errors[:, column, None] * row_of_u
        rows[:, stop:] -= errors @ triangle[start:stop, stop:]
    return rows.masked_fill(~keep, 0.0)
