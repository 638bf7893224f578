"""Optimal brain surgeon on the empirical Fisher in blocks (WoodFisher): what removing a weight
costs if the others make up for it; with the gradient too, WoodTaylor.

Source: Singh and Alistarh, WoodFisher: efficient second-order approximation for neural network
compression, NeurIPS 2020; the update for several weights at once is the exact one of Hassibi and
Stork, NeurIPS 1992; with the gradient it is derived here, and for one weight that of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from pruning.criteria import criteria
from pruning.evidence.evidence import Evidence
from pruning.evidence.fisher_blocks import GRADIENTS, FisherBlocks, iterate_blocks, stack_blocks
from pruning.evidence.local_models import Staging
from pruning.evidence.quadratic_models import ELEMENTS, invert, solve_removal
from pruning.types import Masks, Scores


@criteria.register("obs")
@dataclass(frozen=True, kw_only=True)
class OBS(Staging):
    """Optimal brain surgeon with the empirical Fisher in blocks (WoodFisher).

    Weights that remain are adjusted. Models the change of the loss by 1/2 delta^T F delta, F the
    Fisher of `gradients` groups of images in blocks of `block_size` along each layer's flattened
    weight, and prunes in `pi` stages: each removes the same fraction of what remains, at a Fisher
    of the point then. With `gradient_term` the change is g^T delta + 1/2 delta^T F delta, g the
    gradient of the mean loss (WoodTaylor): away from a minimum, the weights that remain also take
    the Newton step. Without `update` weights that remain stay as they are. Memory is one number for
    each weight and group, at most 2 GiB of them; beyond that the images are passed once for each
    2 GiB. Time is weights times block_size^2, in float64.

    One image x = (1, 1) with logits (0, 0) gives g = (-1, -1, 1, 1) / 2, and F = I + g g^T:

    >>> layer = torch.nn.Linear(2, 2, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
    >>> evidence = Evidence(layer, batches=[(torch.ones(1, 2), torch.tensor([0]))])
    >>> OBS(block_size=1, damping=1.0).score(evidence)["weight"]
    tensor([[0.6250, 0.6250],
            [0.0000, 0.0000]], dtype=torch.float64)
    >>> mask = torch.tensor([[False, True], [True, True]])
    >>> OBS(damping=1.0).compensate(evidence, {"weight": mask})["weight"]
    tensor([[ 0.0000, -0.8571],
            [-0.1429, -0.1429]])
    >>> round(OBS(damping=1.0).predict(evidence, {"weight": mask}), 4)
    0.5714
    """

    supports_segmentation: ClassVar[bool] = False

    pi: Annotated[
        int,
        Field(
            ge=1,
            le=10_000,
            description="number of stages of one round; nothing is retrained between",
        ),
    ] = 4
    block_size: Annotated[
        int, Field(ge=1, le=10_000, description="consecutive weights of a layer in one block")
    ] = 500
    damping: Annotated[
        float, Field(gt=0, le=1e6, description="lambda, on the diagonal of the Fisher")
    ] = 1e-5
    gradients: Annotated[
        int, Field(ge=1, le=1_000_000, description="groups of images, each giving one gradient")
    ] = 250
    update: Annotated[bool, Field(description="move the weights that remain")] = True
    gradient_term: Annotated[
        bool, Field(description="model the loss with its gradient too (WoodTaylor)")
    ] = False

    def units(self, classes: int) -> int:
        """Count a stage's gradients of single images and its Fisher blocks.

        On a ResNet-20 they take 20 forward passes of an image; the gradient takes three.
        """
        return (23 if self.gradient_term else 20) * self.images

    def memory(self, shapes: Collection[Sequence[int]], images: int) -> int:
        """Estimate the bytes of the gradients and of the blocks.

        A float32 for each weight and group, but for one block no more than 2 GiB, and the larger of
        two: half as much again of the largest layer while its gradients are checked; gradients,
        Fisher, factor and inverse of the blocks that are held at a time, in float64.
        """
        groups = min(self.gradients, images)
        sizes = [math.prod(shape) for shape in shapes]
        largest = max(sizes)
        side = min(self.block_size, largest)
        block = side * max(side, groups)
        blocks_of_largest = -(-largest // side)  # rounded up
        held = block * min(blocks_of_largest, max(1, ELEMENTS // block))
        gradients = min(4 * groups * sum(sizes), max(GRADIENTS, 4 * groups * side))
        checked = min(6 * groups * largest, 3 * gradients // 2)
        return gradients + max(checked, 4 * 8 * held)

    def score(self, evidence: Evidence) -> Scores:
        """Compute s_k = theta_k^2 / (2 [F^-1]_kk), in nats; float64, shape of the weight.

        With the gradient, (theta_k - [F^-1 g]_k)^2 / (2 [F^-1]_kk): what removing weight k costs
        beside the Newton step, which is the same for all. Zero for masked weights. Raises
        `ScoreError` for gradients that are not finite and where F is not positive definite to
        rounding.
        """
        costs: dict[str, list[Tensor]] = {name: [] for name in evidence.weights}
        for blocks in self._iterate_blocks(evidence):
            inverse = invert(blocks.fisher)
            distance = self._stack(evidence.weights[blocks.name], blocks)
            if self.gradient_term:
                gradient = self._stack_gradient(evidence, blocks)
                distance = distance - (inverse @ gradient.unsqueeze(-1)).squeeze(-1)
            cost = distance.square() / (2 * inverse.diagonal(dim1=1, dim2=2))
            costs[blocks.name].append(cost.flatten()[: blocks.count])
        return {
            name: torch.cat(costs[name]).reshape(weight.shape)
            for name, weight in evidence.weights.items()
        }

    def predict(self, evidence: Evidence, masks: Masks) -> float:
        """Compute 1/2 delta^T F delta, with the gradient g^T delta + 1/2 delta^T F delta, in nats.

        With the update and without the gradient that is 1/2 theta_Q^T ([F^-1]_QQ)^-1 theta_Q, Q
        removed of each block. It is too small by up to the number of images in a group: where the
        gradients of images are uncorrelated, the squares of their means are that much smaller than
        the mean of their squares.
        """
        total = 0.0
        for blocks, delta in self._iterate_moves(evidence, masks):
            product = (blocks.fisher @ delta.unsqueeze(-1)).squeeze(-1)
            total += 0.5 * float((delta * product).sum())
            if self.gradient_term:
                total += float((self._stack_gradient(evidence, blocks) * delta).sum())
        return total

    def compensate(self, evidence: Evidence, masks: Masks) -> Scores:
        """Compute theta_K + F_KK^-1 (F_KQ theta_Q - g_K) in each block, zero where `masks` prune.

        g counts with `gradient_term` alone.
        """
        moves: dict[str, list[Tensor]] = {name: [] for name in evidence.weights}
        for blocks, delta in self._iterate_moves(evidence, masks):
            moves[blocks.name].append(delta.flatten()[: blocks.count])
        weights = {}
        for name, weight in evidence.weights.items():
            moved = weight.double() + torch.cat(moves[name]).reshape(weight.shape)
            weights[name] = moved.to(weight.dtype).masked_fill(~masks[name], 0.0)
        return weights

    def _iterate_moves(
        self, evidence: Evidence, masks: Masks
    ) -> Iterator[tuple[FisherBlocks, Tensor]]:
        """Yield Fisher blocks and the moves (c, b) of their weights, in order.

        The moves of the last block are filled up with zeros.
        """
        for blocks in self._iterate_blocks(evidence):
            theta = self._stack(evidence.weights[blocks.name], blocks)
            keep = stack_blocks(masks[blocks.name].flatten()[blocks.weights], blocks.size)
            if not self.update:
                yield blocks, -theta.masked_fill(keep, 0.0)
                continue
            gradient = self._stack_gradient(evidence, blocks) if self.gradient_term else None
            yield blocks, solve_removal(blocks.fisher, theta, keep, gradient)

    def _iterate_blocks(self, evidence: Evidence) -> Iterator[FisherBlocks]:
        return iterate_blocks(
            evidence, groups=self.gradients, size=self.block_size, damping=self.damping
        )

    def _stack(self, values: Tensor, blocks: FisherBlocks) -> Tensor:
        """Stack the values of these blocks of a weight, float64 (c, b)."""
        return stack_blocks(values.flatten()[blocks.weights].double(), blocks.size)

    def _stack_gradient(self, evidence: Evidence, blocks: FisherBlocks) -> Tensor:
        """Stack the gradient of the mean loss, zero for masked weights, float64 (c, b)."""
        name = blocks.name
        return self._stack(evidence.gradient[name] * evidence.masks[name], blocks)
