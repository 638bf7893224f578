"""Exact optimal brain surgeon layer by layer (ExactOBS, of OBC): what a layer's outputs lose, and
how the weights that remain make up for it.

Source: Frantar and Alistarh, Optimal brain compression: a framework for accurate post-training
quantization and pruning, NeurIPS 2022.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from pruning.criteria import criteria
from pruning.evidence.damped_layers import BlockSize, Damping, HessianImages, damp_layers
from pruning.evidence.evidence import Evidence
from pruning.evidence.layer_hessians import count_block
from pruning.evidence.quadratic_models import (
    ELEMENTS,
    compute_removal_costs,
    invert,
    restrict_curvature,
    solve_removal,
)
from pruning.types import Calibration, Masks, Scores


@criteria.register("exact_obs")
@dataclass(frozen=True)
class ExactOBS:
    """Squared error of a layer's outputs, weights removed one by one from each row.

    The weights that remain are adjusted. With H = (2/n) sum_i X_i X_i^T over the layer's inputs,
    each row w loses 1/2 delta^T H delta. Within a row, the order of the scores is the order of
    removal. Between layers errors are not comparable, hence the allocation `uniform`; `global`
    compares them as they are. Masked weights stay out from the start; weights on inputs that are
    always zero go first. Time is rows times inputs^3 in each layer, in float64. A layer may have
    8,192 inputs; with `block_size`, any number: then its Hessian is taken in blocks of consecutive
    inputs, each a layer of its own, and time is rows times inputs times block_size^2.

    Two inputs that are always equal: removing one costs nothing, since the other takes its place.

    >>> layer = torch.nn.Linear(3, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 2.0, 1.0]]))
    >>> images = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    >>> evidence = Evidence(layer, batches=[(images, torch.zeros(2, 1))])
    >>> ExactOBS().score(evidence)["weight"].round(decimals=4)
    tensor([[0.0000, 4.5000, 2.0000]], dtype=torch.float64)
    >>> ExactOBS().compensate(evidence, {"weight": torch.tensor([[False, True, True]])})[
    ...     "weight"
    ... ].round(decimals=4)
    tensor([[0., 3., 1.]])
    """

    allocation: ClassVar[str] = "uniform"

    images: HessianImages = 1000
    damping: Damping = 1e-6
    block_size: BlockSize = None

    def calibration(self, classes: int) -> Calibration:
        """Ask for `images` images at random; labels are not used."""
        return Calibration(self.images)

    def units(self, classes: int) -> int:
        """Count the Hessians, the order of removal and the update.

        On a ResNet-20 they take 30 forward passes of an image.
        """
        return 30 * self.images

    def memory(self, shapes: Collection[Sequence[int]], images: int) -> int:
        """Estimate the bytes of the float64 matrices.

        They are the Hessians of all layers, twice more that of the layer at hand (damped, inverse),
        and three matrices for each of its rows that are held at a time.
        """
        hessians = []
        held = 0
        for shape in shapes:
            size, blocks = count_block(math.prod(shape[1:]), self.block_size)
            hessians.append(blocks * size**2)
            at_once = min(shape[0] * blocks, max(1, ELEMENTS // size**2))
            held = max(held, at_once * size**2)
        return 8 * (sum(hessians) + 2 * max(hessians) + 3 * held)

    def score(self, evidence: Evidence) -> Scores:
        """Compute s_p = w_p^2 / (2 [H^-1]_pp), w and H^-1 as they are when p is removed.

        It is removed after the weights of its row that cost less. The score is a mean squared error
        of the layer's output, summed over positions; float64, shape of the weight; raised as in
        `compute_removal_costs` so that it grows along a row's order of removal; zero for masked
        weights.

        Raises `ScoreError` where H is not positive definite to rounding, and as
        `compute_layer_hessians`.
        """
        scores = {}
        for name, layer in damp_layers(evidence, evidence.masks, self.damping, self.block_size):
            # Where nothing is pruned, the rows of a group share one inverse.
            whole = invert(layer.hessian) if bool(layer.keep.all()) else None
            rows = layer.rows.masked_fill(layer.dead[layer.group], 0.0)
            parts = []
            for part in layer.split_rows():
                group = layer.group[part]
                alive = layer.keep[part]
                if whole is not None:
                    inverse = whole[group]
                else:
                    inverse = invert(restrict_curvature(layer.hessian[group], alive))
                parts.append(compute_removal_costs(inverse, rows[part], alive))
            scores[name] = layer.join_blocks(torch.cat(parts), evidence.weights[name])
        return scores

    def compensate(self, evidence: Evidence, masks: Masks) -> Scores:
        """Compute w_K + H_KK^-1 H_KQ w_Q.

        Of all weights with these masks, these have outputs nearest to the layer's present ones.
        """
        weights = {}
        for name, layer in damp_layers(evidence, masks, self.damping, self.block_size):
            moves = [
                solve_removal(layer.hessian[layer.group[part]], layer.rows[part], layer.keep[part])
                for part in layer.split_rows()
            ]
            weight = evidence.weights[name]
            moved = (layer.rows + torch.cat(moves)).masked_fill(~layer.keep, 0.0)
            weights[name] = layer.join_blocks(moved, weight).to(weight.dtype)
        return weights
